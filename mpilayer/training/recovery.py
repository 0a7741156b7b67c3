"""`--on-failure shrink`: when ranks die, the others go on from a snapshot in their memory, with the same batches."""

import socket
import time

from mpilayer.base.cli import count
from mpilayer.base.errors import UserError
from mpilayer.exchange.channel import running
from mpilayer.mpi import ulfm
from mpilayer.schedules import SCHEDULES
from mpilayer.storage.snapshots import Snapshots
from mpilayer.training.replicas import named
from mpilayer.training.trainer import STATISTICS

ABORT, SHRINK = "abort", "shrink"
INSTEAD = " | try: python -m mpilayer.launch --restarts 3"


def add_options(parser):
    """Add them."""
    parser.add_argument("--on-failure", choices=(ABORT, SHRINK), default=ABORT, help="when a rank dies: abort ends all;"
                        " with shrink the others go on (Open MPI, mpiexec --with-ft ulfm)")
    parser.add_argument("--snapshot-every", type=count, metavar="N", help="shrink: steps from one snapshot in"
                        " memory to the next (default: so many that they take 1%% of the time)")


def check(options):
    """Raise UserError for what cannot go on with fewer ranks."""
    if options.on_failure == ABORT:
        if options.snapshot_every:
            raise UserError("--snapshot-every goes with --on-failure shrink")
        return
    if options.device == "gpu":
        raise UserError(f"--on-failure shrink does not go with --device gpu{INSTEAD}")
    if SCHEDULES[options.schedule].asynchronous:
        raise UserError(f"--on-failure shrink does not go with --schedule {options.schedule}: no step is made by all"
                        f" ranks together{INSTEAD}")


def check_state(state):
    """Raise UserError if a State has what is each rank's own: fewer ranks cannot go on with that."""
    if own := [name for name in state.own if name != STATISTICS]:
        raise UserError(f"--on-failure shrink: each rank has {own[0]} of its own here, which is lost with it{INSTEAD}")


class Recovery:
    """Of a run; all ranks make it together. Raises AgreedError if this MPI cannot go on without a rank.

    snapshots   Snapshots, or None: a rank that dies ends all
    deaths      what run.json says of those that have died: their numbers when the run began, hosts, steps
    """

    def __init__(self, ranks, options):
        self.ranks, self.snapshots, self.deaths, self.number = ranks, None, [], ranks.rank
        if options.on_failure == SHRINK:
            ranks.agree(lambda: self._check(ulfm.missing(ranks.MPI)))
            self.snapshots = Snapshots(ranks, options.snapshot_every)
            self.living = dict(enumerate(ranks.gather(socket.gethostname())))  # number: host

    @staticmethod
    def _check(missing):
        if missing:
            raise UserError(f"--on-failure shrink: {missing}")

    def bears(self, error):
        """Whether this is an error after which the run goes on."""
        return self.snapshots is not None and ulfm.is_death(self.ranks.MPI, error)

    def after(self, error, net):
        """Leave the dead behind; the Loaded from which those go on that live. All of these call it, with the error that
        bears() has seen. Raises AgreedError if what is needed was lost.
        """
        begin = time.monotonic()
        for channel in running():
            channel.abandon()
        while error:
            try:
                self.ranks.without_the_dead()
                loaded, alive = self.snapshots.newest(), self.ranks.gather(self.number)
                error = None
            except self.ranks.MPI.Exception as another:
                if not ulfm.is_death(self.ranks.MPI, another):
                    raise
        net.forget_gradients()  # MPI may still write there
        self._note([number for number in self.living if number not in alive], loaded, time.monotonic() - begin)
        return loaded

    def _note(self, dead, loaded, seconds):
        step = loaded.of_this_rank()["run"]["step"]
        who = named([(number, self.living.pop(number)) for number in dead])
        self.deaths.append({"ranks": dead, "after_step": step, "living": self.ranks.size})
        if self.ranks.rank == 0:
            count = f"{self.ranks.size} ranks go on" if self.ranks.size > 1 else "the last rank goes on"
            print(f"mpilayer: {who} died | {count} from the snapshot after {step} steps | {seconds:.1f} s", flush=True)
