"""`python -m bench gpu`: everything there is to measure on a machine with a GPU, part by part."""

from bench.gpu.command import main

__all__ = ["main"]
