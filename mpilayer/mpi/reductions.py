"""The ways of summing a message over the ranks, by name."""

from mpilayer.mpi.collectives import Native, Ordered
from mpilayer.mpi.levels import Levels

# Where NCCL sums (staging.Nccl), MPI's requests are never started.
REDUCTIONS = {"native": Native, "ordered": Ordered, "levels": Levels, "nccl": Native}
