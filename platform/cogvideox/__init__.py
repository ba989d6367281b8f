"""CogVideoX: text, image or video to video, in torch alone."""

from cogvideox.generate import CogVideoX

__all__ = ["CogVideoX"]
