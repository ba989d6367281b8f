"""Near-duplicates: clips become groups of copies, by hash sequences or by embeddings, and of each group one is kept."""

from data_pipeline.duplicates import align, candidates, find, groups, hashes

DECIDING = (align, candidates, find, groups, hashes)
"""The modules whose source is part of the decisions' fingerprint."""
