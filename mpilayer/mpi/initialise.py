"""MPI as it is found, or initialised here, and communicators that others bring."""

import atexit

from mpilayer.base.errors import UserError


def initialised():
    """mpi4py's MPI module, of an MPI that is initialised. Raises UserError."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(f"no MPI library can be loaded ({' '.join(str(error).split())})"
                        " | try: pip install 'mpilayer[mpi]'") from None
    if MPI.Is_finalized():
        raise UserError("MPI has been finalised | expected Ranks to be made before that")
    if not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_MULTIPLE)  # as mpi4py does: a user's own calls may come beside ours
        atexit.register(lambda: MPI.Is_finalized() or MPI.Finalize())
    return MPI


def check(comm, MPI):
    """Raise ValueError or TypeError unless `comm` is an intracommunicator of this rank's."""
    if comm == MPI.COMM_NULL:
        raise ValueError("comm | expected a communicator that this rank belongs to, got COMM_NULL")
    if not isinstance(comm, MPI.Comm) or comm.Is_inter():
        raise TypeError(f"comm | expected an mpi4py intracommunicator, got {type(comm).__name__}")
