"""What this MPI can do here, tried: sums, messages that move by themselves, binding to cores, a rank that dies."""

import os
import time

import numpy as np

from mpilayer.mpi import ulfm

SIZES = (1, 1000, 100_003, 1 << 20)  # numbers of float32
LARGE = 1 << 21
LIMIT = 2.0  # seconds in which messages may move by themselves
TRANSPORT, UNABLE = "OMPI_MCA_pml", {"ucx", "cm"}  # where Open MPI is told which to use, and those without ULFM


def _sum(ranks, size, in_place):
    """Whether the sum of so many whole numbers is exact, on this rank."""
    MPI, numbers = ranks.MPI, (np.arange(size) % 251).astype(np.float32)
    mine, got = numbers * (ranks.rank + 1), np.empty_like(numbers)
    if in_place:
        got[:] = mine
    ranks.wait(ranks.comm.Iallreduce(MPI.IN_PLACE if in_place else mine, got))
    return np.array_equal(got, numbers * (ranks.size * (ranks.size + 1) // 2))


def sums(ranks):
    """In words, whether sums of several sizes are right: there was an MPI whose large ones in place were not."""
    wrong = [f"{4 * size} bytes{' in place' * in_place}" for size in SIZES for in_place in (True, False)
             if not ranks.all(_sum(ranks, size, in_place))]
    return f"WRONG: {', '.join(wrong)}" if wrong else "right"


def progress(ranks):
    """In words, whether a message moves while nobody calls MPI."""
    values = np.ones(LARGE, np.float32)
    ranks.meet()
    begin = time.monotonic()
    ranks.wait(ranks.comm.Iallreduce(ranks.MPI.IN_PLACE, values))
    seconds = ranks.most(time.monotonic() - begin)
    ranks.meet()
    request = ranks.comm.Iallreduce(ranks.MPI.IN_PLACE, values)
    time.sleep(min(LIMIT, 5 * seconds))
    arrived = request.Test()  # what is left can only be done now
    if not arrived:
        ranks.wait(request)
    everywhere = ranks.all(arrived)
    return "by themselves" if everywhere else "only in calls of MPI (--progress auto sees to that)"


def binding(ranks):
    """In words, which cores ranks may use."""
    cores = sorted(os.sched_getaffinity(0))
    if ranks.all(len(cores) == ranks.cores):
        return "none: a rank may use all cores of its machine"
    near = ranks.node.allgather(tuple(cores))
    if ranks.any(len(set(near)) < len(near)):
        return f"several ranks are bound to the same cores, as rank 0 to {cores} | try: mpiexec --bind-to none"
    return f"each rank to cores of its own, rank 0 to {cores}"


def failures(ranks):
    """In words, what happens when a rank dies."""
    if missing := ulfm.missing(ranks.MPI):
        return f"ends the job: {missing}"
    transport = os.environ.get(TRANSPORT, "")
    if transport in UNABLE:
        return f"ends the job: the transport {transport} has no ULFM | try: mpiexec --mca pml ob1"
    left = ulfm.survivors(ranks.MPI, [ranks.duplicate()])
    return ("the others can go on: --on-failure shrink" if left.size == ranks.size else
            f"is not told rightly: of {ranks.size} ranks that live {left.size} were found")


TRIALS = {"sums": sums, "messages move": progress, "binding": binding, "a rank that dies": failures}


def results(ranks):
    """{what: in words}; all ranks call this together."""
    return {name: trial(ranks) for name, trial in TRIALS.items()}
