"""Data-parallel training over MPI with communication hidden behind computation."""

__version__ = "0.1.0"
