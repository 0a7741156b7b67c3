"""What the compiler's interface raises."""

from cupy.emulator.build import CompileError as CompileException

__all__ = ["CompileException"]
