"""People look at clips and say what is wrong with them: which clips to ask about, the labels kept, the page."""
