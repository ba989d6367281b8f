"""Bucketed latents to checkpoint to weights: the training stage."""
