"""Ways to spread one training over workers, behind one small interface: ZeRO, DDP and FSDP."""

from training.engines.engine import Engine

__all__ = ["Engine"]
