"""`--on-failure shrink`: when ranks die, the others go on from a snapshot in their memory, with the same batches."""

import socket

from mpilayer.base.cli import count, flag, natural
from mpilayer.base.errors import AgreedError, UserError
from mpilayer.exchange.channel import running
from mpilayer.mpi import ulfm
from mpilayer.storage.snapshots import Snapshots
from mpilayer.training.record import FLIGHT
from mpilayer.training.replicas import named
from mpilayer.training.trainer import STATISTICS

ABORT, SHRINK = "abort", "shrink"
INSTEAD = " | try: python -m mpilayer.launch --restarts 3"


def add_options(parser):
    """Add them."""
    parser.add_argument("--on-failure", choices=(ABORT, SHRINK), default=ABORT, help="when a rank dies: abort ends all;"
                        " with shrink the others go on (Open MPI, mpiexec --with-ft ulfm)")
    parser.add_argument("--spares", type=natural, default=0, metavar="N", help="shrink: so many of the ranks, the last"
                        " ones, wait and take the places of those that die (default: 0)")
    parser.add_argument("--snapshot-every", type=count, metavar="N", help="shrink: steps from one snapshot in"
                        " memory to the next (default: so many that they take 1%% of the time)")


def check(options, ranks):
    """Raise UserError for what cannot go on with fewer ranks."""
    if options.on_failure == ABORT:
        for name in ("snapshot_every", "spares"):
            if getattr(options, name):
                raise UserError(f"{flag(name)} goes with --on-failure shrink")
        return
    if options.spares >= ranks:
        raise UserError(f"--spares {options.spares} leave none of {ranks} ranks to compute"
                        f" | try: mpiexec -n {options.spares + 2}")
    if options.device == "gpu":
        raise UserError(f"--on-failure shrink does not go with --device gpu{INSTEAD}")


def check_trainer(trainer, spares):
    """Raise UserError if no step is made by all ranks together, or if each rank has a state of its own: only as many
    ranks can go on with that.
    """
    if trainer.schedule.asynchronous:
        raise UserError(f"--on-failure shrink does not go with this --schedule {trainer.name}: no step is made by all"
                        f" ranks together{INSTEAD}")
    own = [name for name in trainer.state().own if name != STATISTICS]
    if own and not spares:
        raise UserError(f"--on-failure shrink: each rank has {own[0]} of its own here, with which fewer ranks cannot go"
                        " on | try: --spares 1, or python -m mpilayer.launch --restarts 3")


class Recovery:
    """Of a run; all ranks make it together. Raises AgreedError if this MPI cannot go on without a rank.

    snapshots   Snapshots, or None: a rank that dies ends all
    deaths      what run.json says of those that have died: their numbers when the run began, after which step
    shared      what a rank that takes a place must know
    """

    def __init__(self, ranks, options):
        self.ranks, self.options, self.snapshots, self.deaths, self.shared = ranks, options, None, [], None
        self.number, self.folder = ranks.rank, options.out and options.out / FLIGHT
        if options.on_failure == SHRINK:
            ranks.agree(self._check)
            if options.spares:
                ranks.set_aside(options.spares)
            self.snapshots = Snapshots(ranks, options.snapshot_every)
            self.living = dict(enumerate(ranks.gather(socket.gethostname())))  # number: host, of those that work

    def _check(self):
        if missing := ulfm.missing(self.ranks.MPI):
            raise UserError(f"--on-failure shrink: {missing}")

    def bears(self, error):
        """Whether this exception of MPI's is one after which the run goes on."""
        MPI = self.ranks.MPI
        return self.snapshots is not None and (ulfm.is_death(MPI, error) or ulfm.has_died(MPI, self.ranks.comm))

    def stand_by(self):
        """Of a rank that waits: sleep until it has a place, and return the Loaded; None if all is over."""
        while not self.ranks.stand_by():
            self._regroup()
            if not self.ranks.waits:
                return self._newest()
        return None

    def after(self, net):
        """When bears() has seen an error: leave the dead behind; the Loaded from which those go on that live, None if
        no step was made. All of these call it. Raises AgreedError if what is needed was lost.
        """
        for channel in running():
            channel.abandon()
        self._regroup()
        net.forget_gradients()  # MPI may still write there
        return self._newest()

    def all_is_done(self):
        """Training has ended on all ranks, or on none: then that raises an error that bears() knows."""
        if self.snapshots:
            ulfm.agree(self.ranks.comm)

    def _regroup(self):
        self._lasting(lambda: self.ranks.without_the_dead(self.folder))

    def _lasting(self, action, between=lambda: None):
        """What action() returns, in the end: more ranks may die in the midst of it."""
        while True:
            try:
                return action()
            except self.ranks.MPI.Exception as error:
                if not ulfm.is_death(self.ranks.MPI, error):
                    raise
                between()

    def _newest(self):
        """The Loaded of all ranks that work now, None if no step was made; said is who has died."""
        loaded, told = self._lasting(lambda: (self.snapshots.newest(), self.ranks.gather(
            (self.number, socket.gethostname(), self.shared and (self.shared, self.living, self.deaths)))),
            between=self._regroup)
        living = {number: host for number, host, _ in told}
        self.shared, before, deaths = next(known for _, _, known in told if known)
        dead, new = ([(n, host) for n, host in these.items() if n not in others]
                     for these, others in ((before, living), (living, before)))
        if loaded is None and (new or self.options.resume):
            raise AgreedError(f"{named(dead)} died before there was a snapshot{INSTEAD}")
        self.living, step = living, loaded.of_this_rank()["run"]["step"] if loaded else 0
        self.deaths = [*deaths, {"ranks": [number for number, _ in dead], "in_place": [number for number, _ in new],
                                 "after_step": step, "living": self.ranks.size}]
        if self.ranks.rank == 0:
            place = f", {named(new)} in place" if new else ""
            where = f"the snapshot after {step} steps" if loaded else "the beginning"
            count = f"{self.ranks.size} ranks go on" if self.ranks.size > 1 else "the last rank goes on"
            print(f"mpilayer: {named(dead)} died{place} | {count} from {where}", flush=True)
        return loaded
