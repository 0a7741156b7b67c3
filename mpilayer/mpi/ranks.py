"""The one place that sets MPI up: who is here, how to wait politely, how to agree, and how to stop together."""

import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from mpilayer.base import env
from mpilayer.base.errors import AgreedError, UserError

# what launchers tell their ranks, asked only when MPI itself says that this rank is alone: (ranks, rank, launcher)
LAUNCHERS = [("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "Open MPI"),
             ("PMI_SIZE", "PMI_RANK", "MPICH or Intel MPI"), ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "Slurm")]
LOCAL_RANKS = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_TASKS_PER_NODE")
CROWD, TURN = 8, 15e-6  # ranks on a core from which on sleeping beats yielding; seconds a rank holds a core to poll
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAY = 3  # seconds in which the rank that speaks has its say, before another ends the job
PASS_ON = 0.3  # seconds in which a launcher passes a message on; once it hears of the end it may drop it
LONG_NAP = 0.01  # seconds between looks at something that takes many
BUSY, NAP = 0.5, 3e-4  # seconds after which a wait is a long one, and that a rank then leaves a core alone


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


def launched_apart(environ, size):
    """(ranks, rank, launcher) if a launcher started several ranks and this MPI does not know of the others."""
    for ranks, rank, launcher in LAUNCHERS:
        if size == 1 and environ.get(ranks, "1").isdigit() and int(environ.get(ranks, "1")) > 1:
            return int(environ[ranks]), int(environ.get(rank, 0)), launcher
    return None


class Ranks:
    """The ranks of this job. Make one with `start`.

    rank, size     of this rank in the job        node       communicator of the ranks on this node
    neighbours     ranks on this machine          cores      that these may use together
    crowded        more of them than cores: give the core away when waiting
    """

    def __init__(self, MPI):
        self.MPI, self.world = MPI, MPI.COMM_WORLD
        self.rank, self.size = self.world.rank, self.world.size
        self.node = self.world.Split_type(MPI.COMM_TYPE_SHARED)
        self.first_node = self.node.bcast(self.rank) == 0
        self.neighbours, self.cores = self._machine()
        self.crowded = self.neighbours > self.cores
        self.patience = env.get("MPILAYER_PATIENCE")
        self.where = "start-up"  # for messages: what this rank is doing
        self._lot = None

    def _machine(self):
        """Ranks and cores of this machine, which may pass for several nodes."""
        try:
            name = Path("/proc/sys/kernel/random/boot_id").read_text()
        except OSError:
            name = socket.gethostname()
        cores = [cores for other, cores in self.world.allgather((name, os.sched_getaffinity(0))) if other == name]
        return len(cores), len(set().union(*cores))

    def _lay_lot(self):
        """A pipe of this node's ranks with one byte in it: who gets that may print the error. It has no name."""
        if self.node.rank > 0:
            self._open_lot(None)
            return
        with tempfile.TemporaryDirectory(prefix="mpilayer-") as folder:
            path = os.path.join(folder, "lot")
            os.mkfifo(path)
            self._open_lot(path)
            os.write(self._lot, b"1")

    def _open_lot(self, path):
        self._lot = os.open(self.node.bcast(path), os.O_RDWR | os.O_NONBLOCK)
        self.meet(self.node)  # then the name may go

    def _draws_the_lot(self):
        if self._lot is None:  # it is not laid yet
            return self.node.rank == 0
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self._lot, 1))
        return False

    def wait(self, request, what=""):
        """Return when the request has completed."""
        self.until(request.Test, what)

    def until(self, done, what=""):
        """Return when done() is true. Signals are heard meanwhile, and a long wait is reported."""
        start, told = time.monotonic(), False
        while not done():
            waited = time.monotonic() - start
            self._give_way(waited)
            told = told or self._complain(waited, what)

    def _give_way(self, waited):
        """Let the ranks that share this core have it; where they are many, until they all had their turn."""
        crowd = self.neighbours / self.cores
        if crowd > 1 and waited > BUSY:  # it is not a message that is late but a rank: it may need the core for long
            time.sleep(crowd * NAP)
        elif crowd > CROWD:
            time.sleep(crowd * TURN)
        elif crowd > 1:
            os.sched_yield()

    def _complain(self, waited, what):
        if waited < self.patience:
            return False
        print(f"rank {self.rank} | {self.where} | {what or 'a meeting of all ranks'} | "
              f"still waiting after {waited:.0f} s", file=sys.stderr, flush=True)
        return True

    def meet(self, comm=None):
        """A barrier that leaves the core to others; the short blocking calls after it find everyone there."""
        self.wait((comm or self.world).Ibarrier())

    def meet_after(self, comm):
        """The same where one has long work to do first: the others sleep, for cores may be halves of one."""
        request = comm.Ibarrier()
        self.until(lambda: request.Test() or time.sleep(LONG_NAP))

    def gather(self, value):
        """A list of every rank's value, on every rank."""
        self.meet()
        return self.world.allgather(value)

    def total(self, values):
        """Sum of a float64 array over the ranks, on every rank."""
        self.wait(self.world.Iallreduce(self.MPI.IN_PLACE, values))
        return values

    def agree(self, action):
        """action() on every rank; if it raises UserError on any, all raise AgreedError, that of the lowest rank."""
        result, error = None, None
        try:
            result = action()
        except UserError as failure:
            error = str(failure)
        errors = [(rank, e) for rank, e in enumerate(self.gather(error)) if e]
        if errors:
            rank, message = errors[0]
            everywhere = len(errors) == self.size
            raise AgreedError(message if everywhere or self.size == 1 else f"rank {rank} | {message}")
        return result

    @contextlib.contextmanager
    def stopping_together(self):
        """Whatever ends this block early ends every rank within seconds, and is printed once."""
        _on_signals(_interrupt)
        try:
            self._lay_lot()
            yield
        except AgreedError as error:
            if self.rank == 0:
                print(self._describe(error), file=sys.stderr, flush=True)
            self.meet()
            raise SystemExit(2) from None
        except BaseException as error:
            _on_signals(signal.SIG_IGN)  # somebody may press Ctrl-C twice
            self._stop(error)
        finally:
            _on_signals(signal.SIG_DFL)

    def _stop(self, error):
        if not self.first_node:
            time.sleep(SAY / 3)  # each node has a lot; rank 0's node goes first
        if self._draws_the_lot():
            print(self._describe(error), file=sys.stderr, flush=True)
            time.sleep(PASS_ON)
        else:
            time.sleep(SAY)
        code = 128 + error.args[0] if isinstance(error, Interrupted) else 2 if isinstance(error, UserError) else 1
        self.world.Abort(code)

    def _describe(self, error):
        if isinstance(error, AgreedError):
            return f"mpilayer: {error}"
        where = f"mpilayer: rank {self.rank} | {self.where}"
        if isinstance(error, UserError):
            return f"{where} | {error}"
        if isinstance(error, Interrupted):
            return f"{where} | stopped by {signal.Signals(error.args[0]).name}"
        return f"{''.join(traceback.format_exception(error))}{where} | {error!r}"


def _interrupt(number, frame):
    raise Interrupted(number)


def _on_signals(action):
    for number in SIGNALS:
        signal.signal(number, action)


def _be_polite():
    """Settings MPICH reads when it starts, for ranks that outnumber their cores: spin less, wake up less often."""
    local = next((int(os.environ[name]) for name in LOCAL_RANKS if os.environ.get(name, "").isdigit()), 1)
    crowd = local / len(os.sched_getaffinity(0))
    if crowd > 1:
        os.environ.setdefault("MPIR_CVAR_POLLS_BEFORE_YIELD", "1")
    if crowd > CROWD:  # a tree needs fewer messages of each rank than recursive doubling
        os.environ.setdefault("MPIR_CVAR_IALLREDUCE_INTRA_ALGORITHM", "tsp_tree")


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
    """Initialise MPI and return the Ranks. Raises UserError if there is no MPI, or if it is not the launcher's."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the ranks can stop together, Ctrl-C just ends each of them
    _be_polite()
    MPI = _load()
    launched = launched_apart(os.environ, 1)
    if launched and launched[2] == "Open MPI" and library(MPI).startswith("MPICH"):  # it would abort in Init_thread
        raise _not_the_launchers(launched, MPI)
    if not MPI.Is_initialized():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # mpi4py's hint at what is said below
            MPI.Init_thread(MPI.THREAD_SERIALIZED)
    if launched_apart(os.environ, MPI.COMM_WORLD.size):
        raise _not_the_launchers(launched, MPI)
    return Ranks(MPI)


@contextlib.contextmanager
def job():
    """The whole life of a rank: `with job() as ranks: ...`. Ends the program with a message if anything fails."""
    try:
        ranks = start()
    except UserError as error:
        if str(error):
            print(f"mpilayer: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    with ranks.stopping_together():
        yield ranks
