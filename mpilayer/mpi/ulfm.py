"""Going on when ranks have died: User Level Failure Mitigation, which is no MPI standard yet, so all of it is here.

Open MPI 5 has it where its launcher turns it on: `mpiexec --with-ft ulfm`. A call that needs a dead rank then fails,
also one that is in flight; others may wait for ever, until somebody revokes their communicator.
"""

import functools
import os
import time

ENABLED = "OMPI_MCA_mpi_ft_enable"  # in the environment of ranks whose launcher has turned it on
OPTIONS = ["--with-ft", "ulfm"]  # of that launcher, which turn it on
KNOWN = 1.0  # seconds in which the news of a death come to a rank
REMEDY = "the mpiexec of Open MPI with --with-ft ulfm, or python -m mpilayer.launch --restarts N, which any MPI bears"


@functools.cache
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


def has_died(MPI, comm):
    """Whether a rank of a communicator has died, as far as this rank knows or will know within moments: some calls
    fail for that with an error that does not say so.
    """
    end = time.monotonic() + KNOWN
    while missing(MPI) is None and time.monotonic() < end:
        if comm.Is_revoked() or comm.Get_failed().size:
            return True
        time.sleep(KNOWN / 20)
        MPI.COMM_SELF.Iprobe()  # so that news come in
    return False


def made(MPI, comm, of):
    """A communicator that was just made `of` another, when all ranks of that which live have it: Open MPI 5.0 crashes
    where one is revoked that a rank is still making.
    """
    if missing(MPI) is None:
        of.Agree(0)
    return comm


def revoke(comms):
    """Whoever waits on one of these communicators is told that it is of no use any more."""
    for comm in comms:
        if not comm.Is_revoked():
            comm.Revoke()


def survivors(MPI, comms):
    """A communicator of the ranks of the first of `comms` that live, in their order; all of these call this. All of
    `comms` are revoked.
    """
    revoke(comms)
    left = comms[0].Shrink()
    return made(MPI, left, left)


def agree(comm):
    """All ranks of a communicator have come so far; on all that live, or on none, where MPI's exception is raised."""
    comm.Agree(0)
