"""A graded corpus: films made from real footage whose cuts, defects and copies are known to the frame."""
