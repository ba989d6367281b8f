"""Captioners: what a clip shows, in words."""
