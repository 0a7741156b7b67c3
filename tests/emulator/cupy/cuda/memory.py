"""What the memory's interface raises."""

from cupy.emulator.memory import OutOfMemoryError

__all__ = ["OutOfMemoryError"]
