"""Ways to spread one training over workers, behind one small interface: ZeRO, DDP, FSDP, and one for tests."""

from training.engines.engine import Engine

__all__ = ["Engine"]
