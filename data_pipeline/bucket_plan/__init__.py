"""Footage becomes size classes: the K buckets that lose least of it, and what any list of buckets would lose."""
