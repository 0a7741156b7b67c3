"""The life of a rank that runs a program of ours: MPI is set up, signals are heard, and all ranks stop together."""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path

from mpilayer.base.errors import AgreedError, HangError, UserError
from mpilayer.base.terminal import launcher
from mpilayer.mpi import ulfm
from mpilayer.mpi.flight_recorder import SUFFIX
from mpilayer.mpi.launcher import end_launcher, forget_segments, launched_apart, looked_after, outlive_not
from mpilayer.mpi.node_file import open_together
from mpilayer.mpi.ranks import Ranks

LOCAL_RANKS = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_TASKS_PER_NODE")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OUT_OF_MEMORY = "Out of memory"  # what an MPI calls it
LESS_MEMORY = "a smaller --batch, --delay or --net, or fewer ranks on a machine"
SAY = 3  # seconds in which the rank that speaks has its say, before another ends the job
AGAIN = 0.5  # seconds after which a signal is raised again that did not end the run
ABORT = 2  # seconds that MPI has to end the job
PASS_ON = 0.3  # seconds in which a launcher passes a message on; once it hears of the end it may drop it


class Interrupted(BaseException):
    """A signal asked this rank to stop; not an Exception, so that nothing on the way swallows it."""


def _load():
    """mpi4py's MPI module, not yet initialised."""
    try:
        import mpi4py
        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise _alone(f"no MPI library can be loaded ({reason}) | try: pip install 'mpilayer[mpi]'") from None
    return MPI


class ErrorToken:
    """A pipe of a node's ranks with one byte in it: the rank that reads it prints the error. It has no file name."""

    def __init__(self, ranks):
        self.ranks, self.pipe = ranks, None

    def create(self):
        """Make the pipe; a meeting of the node's ranks."""
        self.pipe = open_together(self.ranks, os.mkfifo, os.O_RDWR | os.O_NONBLOCK)
        if self.ranks.node.rank == 0:
            os.write(self.pipe, b"1")
        self.ranks.meet(self.ranks.node)

    def take(self):
        """Whether this rank got the byte: one on the node does."""
        if self.pipe is None:  # it has not been created yet
            return self.ranks.node.rank == 0
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self.pipe, 1))
        return False


@contextlib.contextmanager
def stopping_together(ranks):
    """Whatever ends this block early ends every rank within seconds, and is printed once; sys.exit(0) just leaves it.

    Signals are handled as they were when it ends.
    """
    handlers = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    handlers[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, lambda *_: _write_record(ranks))
    token = ErrorToken(ranks)
    try:
        token.create()
        atexit.register(_finalize, ranks, token)
        yield
        _end_together(ranks)
    except AgreedError as error:
        if ranks.rank == 0:
            print(_describe(ranks, error), file=sys.stderr, flush=True)
        _end_together(ranks)
        leave(ranks, 2)
    except BaseException as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if isinstance(error, SystemExit) and not error.code:
            raise
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # somebody may press Ctrl-C twice
        if isinstance(error, BrokenPipeError):  # nobody reads on, as after `| head`: end as other programs do
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.raise_signal(signal.SIGPIPE)
        _stop(ranks, token, error)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def leave(ranks, status):
    """End the program. Where ranks may die it does not finalise MPI: Open MPI would wait there for those that have."""
    if ulfm.missing(ranks.MPI) is not None:
        sys.exit(status)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _end_together(ranks):
    """A last meeting, so that a rank that hangs now is named, too; nobody needs one that has died."""
    try:
        ranks.meet()
    except ranks.MPI.Exception as error:
        if not ulfm.is_death(ranks.MPI, error):
            raise
        ranks.part()
    ranks.dismiss()


def _finalize(ranks, token):
    """MPI's own end, which waits for all ranks, and may not wait for ever: as of any hang, one says who is missing."""
    if ulfm.missing(ranks.MPI) is None or ranks.MPI.Is_finalized():
        return
    ended = threading.Event()
    if ranks.timeout:
        ranks.where = "the end of the job | MPI_Finalize"
        ranks.recorder.waiting("all ranks")
        threading.Thread(target=_watch, args=(ranks, token, ended), daemon=True).start()
    ctypes.CDLL(ranks.MPI.__file__).MPI_Finalize()  # which mpi4py calls so that no other thread can run
    ended.set()


def _watch(ranks, token, ended):
    """End this process, and say why, unless `ended` is set before the ranks hang."""
    due = ranks.timeout
    while not ended.wait(due):
        try:
            due = ranks.check_progress()
        except HangError as error:
            _say_once(ranks, token, error)
            os.kill(os.getpid(), signal.SIGALRM)


def _write_record(ranks):
    """Say where this rank's flight recorder is, for which there is a file if it has none."""
    folder = ranks.recorders.path.parent if ranks.recorders.path else Path(tempfile.gettempdir(), _folder_name())
    if not ranks.recorders.path:
        folder.mkdir(exist_ok=True)
        ranks.recorder.block.tofile(folder / f"rank-{ranks.rank}{SUFFIX}")
    sys.stderr.write(f"mpilayer: rank {ranks.rank} | {ranks.where} | flight recorder in {folder}\n")
    sys.stderr.flush()


def _folder_name():
    """One for all ranks of this node."""
    return f"mpilayer-flight-{os.getuid()}-{launcher() or os.getpid()}"


def _stop(ranks, token, error):
    hangs = isinstance(error, HangError)
    if not ranks.first_node:
        time.sleep(SAY if hangs else SAY / 3)  # each node has a token; rank 0's node goes first, unless it hangs itself
    _say_once(ranks, token, error)
    signal.setitimer(signal.ITIMER_REAL, ABORT)  # a signal's default action: MPI may wait for a rank that hangs
    if hangs:
        signal.raise_signal(signal.SIGALRM)
    if ulfm.is_death(ranks.MPI, error):
        end_launcher()
    ranks.comm.Abort(_status(error))


def _say_once(ranks, token, error):
    """By one rank of the node; the others give it time for that."""
    if token.take():
        print(_describe(ranks, error), file=sys.stderr, flush=True)
        time.sleep(PASS_ON)
    else:
        time.sleep(SAY)


def _status(error):
    """The exit status: 2 for what would fail again."""
    if isinstance(error, Interrupted):
        return 128 + error.args[0]
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 2 if isinstance(error, UserError) and not isinstance(error, HangError) else 1


def _describe(ranks, error):
    if isinstance(error, AgreedError | HangError):
        return f"mpilayer: {error}"
    where = f"mpilayer: rank {ranks.rank} | {ranks.where}"
    if isinstance(error, UserError):
        return f"{where} | {error}"
    if isinstance(error, SystemExit):
        return f"{where} | sys.exit({error.code!r})"
    if _is_memory(ranks, error):
        return f"{where} | not enough memory ({error or type(error).__name__}) | try: {LESS_MEMORY}"
    if isinstance(error, Interrupted):
        return f"{where} | stopped by {signal.Signals(error.args[0]).name}"
    if isinstance(error, ranks.MPI.Exception):
        return f"{where} | MPI failed ({error}) | try: what other ranks and the launcher say: one may have ended"
    return f"{''.join(traceback.format_exception(error))}{where} | {error!r}"


def _is_memory(ranks, error):
    """Whether this process, or MPI in it, has run out of memory."""
    of_mpi = isinstance(error, ranks.MPI.Exception) and error.Get_error_class() == ranks.MPI.ERR_NO_MEM
    return isinstance(error, MemoryError) or of_mpi or OUT_OF_MEMORY in str(error)


def _interrupt(number, frame):
    """Raise Interrupted, again and again: what is raised in a callback or a destructor, Python swallows."""
    signal.signal(signal.SIGALRM, lambda *_: _interrupt(number, None))
    signal.setitimer(signal.ITIMER_REAL, AGAIN)
    raise Interrupted(number)


def _spin_less_when_crowded():
    """A setting MPICH reads when it starts, for ranks that outnumber the cores of this machine: spin less.

    Nothing that others must do alike, such as the algorithm of a collective, may be decided here.
    """
    local = next((int(os.environ[name]) for name in LOCAL_RANKS if os.environ.get(name, "").isdigit()), 1)
    if local > len(os.sched_getaffinity(0)):
        os.environ.setdefault("MPIR_CVAR_POLLS_BEFORE_YIELD", "1")


def _alone(message):
    """A UserError with that message where no MPI can carry it: the launcher's rank 0 has it, the others none."""
    _, rank, _ = launched_apart(os.environ, 1) or (1, 0, "")
    if rank > 0:
        time.sleep(SAY)  # the first rank to leave may end the job
    return UserError(message if rank == 0 else "")


def library(MPI):
    """Name and version of the MPI library."""
    first = MPI.Get_library_version().splitlines()[0].split(",")[0]
    return " ".join(first.strip("\x00").split())


def _not_the_launchers(launched, MPI):
    ranks, _, launcher = launched
    mpiexec = os.path.join(os.path.dirname(sys.executable), "mpiexec")
    return _alone(f"the launcher of {launcher} started {ranks} ranks, but this Python's MPI ({library(MPI)}) thinks"
                  f" each is alone | try: the mpiexec of that MPI, usually the one next to this Python: {mpiexec}")


def start():
    """Initialise MPI and return the Ranks. Raises UserError if there is no MPI, if it is not the launcher's, or if an
    environment variable makes no sense; with no message on the ranks that are not to print one.
    """
    _spin_less_when_crowded()
    MPI = _load()
    launched = launched_apart(os.environ, 1)
    if launched and launched[2] == "Open MPI" and library(MPI).startswith("MPICH"):  # it would abort in Init_thread
        raise _not_the_launchers(launched, MPI)
    if not MPI.Is_initialized():
        with warnings.catch_warnings(), looked_after():
            warnings.simplefilter("ignore", RuntimeWarning)  # mpi4py's hint at what is said below
            MPI.Init_thread(MPI.THREAD_SERIALIZED)
    if launched_apart(os.environ, MPI.COMM_WORLD.size):
        raise _not_the_launchers(launched, MPI)
    try:
        return Ranks(MPI.COMM_WORLD)
    except AgreedError as error:
        raise UserError(error if MPI.COMM_WORLD.rank == 0 else "") from None


@contextlib.contextmanager
def job():
    """The whole life of a rank: `with job() as ranks: ...`. Ends the program with a message if anything fails."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # until ranks can stop together, it just ends each of them
    try:
        ranks = start()
        outlive_not()
        forget_segments(ranks)
        with stopping_together(ranks):
            yield ranks
    except UserError as error:
        if str(error):
            print(f"mpilayer: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        signal.signal(signal.SIGINT, before)
