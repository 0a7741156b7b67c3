"""Going on when ranks have died: User Level Failure Mitigation, which is no MPI standard yet, so all of it is here.

Open MPI 5 has it where its launcher turns it on: `mpiexec --with-ft ulfm`. A call that needs a dead rank then fails,
also one that is in flight; others may wait for ever, until somebody revokes their communicator.
"""

import os

ENABLED = "OMPI_MCA_mpi_ft_enable"  # in the environment of ranks whose launcher has turned it on
REMEDY = "the mpiexec of Open MPI with --with-ft ulfm, or python -m mpilayer.launch --restarts N, which any MPI bears"


def missing(MPI):
    """What keeps this job from going on without a rank, in words, or None."""
    library = " ".join(MPI.Get_library_version().split()[:3]).rstrip(",")
    if not library.startswith("Open MPI"):
        return f"{library} has no ULFM | try: {REMEDY}"
    if os.environ.get(ENABLED) != "1":
        return f"ULFM of {library} is not turned on | try: {REMEDY}"
    return None


def is_death(MPI, error):
    """Whether an exception, or MPI's number of an error, says that a rank has died, or that another has noticed it."""
    if not isinstance(error, MPI.Exception | int):
        return False
    code = error.Get_error_class() if isinstance(error, MPI.Exception) else MPI.Get_error_class(error)
    return code in (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED)


def survivors(comms):
    """A communicator of the ranks of the first of `comms` that live, in their order, and the numbers of those that do
    not; all survivors call this. All of `comms` are revoked: whoever waits there is told.
    """
    for comm in comms:
        if not comm.Is_revoked():
            comm.Revoke()
    first = comms[0]
    left = first.Shrink()
    group = left.Get_group()
    alive = set(group.Translate_ranks(None, first.Get_group()))
    return left, [rank for rank in range(first.size) if rank not in alive]
