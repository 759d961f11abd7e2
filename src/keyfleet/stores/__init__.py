"""Where buckets live: in memory, or shared."""

from .memory import MemoryStore

__all__ = ["MemoryStore"]
