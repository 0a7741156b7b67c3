"""What the library's own MPI calls cost as ranks become many: a run of the main job with a communicator that counts."""

import contextlib
import pickle
from collections import defaultdict

import numpy as np
from rich.table import Table

from bench import options as shared
from bench.rows import console
from mpilayer import train
from mpilayer.base.errors import UserError
from mpilayer.mpi import job

COUNTED = ("Iallreduce", "Allreduce", "Ibcast", "Igather", "Igatherv", "Iallgather", "Iallgatherv", "Ibarrier",
           "Allreduce_init", "Allgatherv_init", "Alltoallv_init", "allgather", "gather", "bcast", "isend", "recv",
           "Dup", "Idup", "Split", "Split_type")
STEPS = ["--data", "synthetic", "--net", "resnet-mini", "--steps", "3", "--bucket", "64k",
         "--chunk", "none", "--progress", "poll", "--quiet"]


def _size(thing):
    """Bytes of a buffer, of the buffers in a list, or of another object when it travels."""
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    if isinstance(thing, list | tuple):
        return sum(map(_size, thing))
    return 0


class Calls:
    """{(phase, MPI call): [how often, bytes of its largest buffer, added up]} of a rank."""

    def __init__(self):
        self.found, self.ranks = defaultdict(lambda: [0, 0]), None

    @property
    def phase(self):
        """Where the run is."""
        where = self.ranks.where if self.ranks else "start-up"
        return "steps" if " | step " in where else "start-up" if where.startswith("start-up") else "evaluation, end"

    def add(self, call, size):
        """It was made, with so many bytes."""
        entry = self.found[self.phase, call]
        entry[0] += 1
        entry[1] += size


def counting(MPI, calls):
    """A class of communicators that tell `calls` what they are asked for, as do those that are made of them."""
    class Counting(MPI.Intracomm):
        pass

    def counted(name):
        real = getattr(MPI.Intracomm, name)

        def call(self, *arguments, **options):
            result = real(self, *arguments, **options)
            buffers = [_size(each) for each in (*arguments, *options.values())]
            calls.add(name, max(buffers, default=0) or (len(pickle.dumps(result)) if name.islower() else 0))
            return Counting(result) if name.startswith("Split") else result

        return call

    for name in COUNTED:
        setattr(Counting, name, counted(name))
    return Counting


def measure(comm, words):
    """{phase: {call: (times, bytes on the first rank, the most on any other)}} of a run of the main job, on rank 0."""
    from mpi4py import MPI

    calls = Calls()
    with job.Ranks(counting(MPI, calls)(comm)) as ranks:
        calls.ranks = ranks
        status = train.run(ranks, words)
        found = dict(calls.found)
    if status:
        raise UserError(f"the main job ended with exit status {status}")
    everyone, table = comm.gather(found), defaultdict(dict)
    for phase, call in found if comm.rank == 0 else ():
        times, sizes = zip(*(each.get((phase, call), (0, 0)) for each in everyone), strict=True)
        table[phase][call] = max(times), sizes[0], max(sizes[1:], default=0)
    return table


def show(table, ranks, say):
    """A table."""
    shown = Table("phase", "MPI call", "calls", "kB on rank 0", "the most on another",
                  title=f"{ranks} ranks: calls and bytes of their largest buffers")
    for phase, calls in table.items():
        for call, (times, first, others) in calls.items():
            shown.add_row(phase, call, str(times), f"{first / 1e3:.1f}", f"{others / 1e3:.1f}")
        total = [sum(each) for each in zip(*calls.values(), strict=True)]
        shown.add_row(phase, "all", str(total[0]), *(f"{each / 1e3:.1f}" for each in total[1:]), style="bold",
                      end_section=True)
    say(shown)


def parser():
    """All options."""
    p = shared.Parser(prog="python -m bench growth", description=__doc__, epilog="After these may come options of"
                      f" mpilayer.train; without any: {' '.join(STEPS)} --batch RANKS")
    shared.add_json(p)
    return p


def main(argv):
    """Count, print, and save."""
    options, words = parser().parse_known_args(argv)
    with job.job() as ranks:
        ranks.agree(lambda: shared.check_files(options, ranks.rank))
        table = measure(ranks.comm, words or [*STEPS, "--batch", str(ranks.size)])
        with contextlib.suppress(BrokenPipeError):
            show(table, ranks.size, console(ranks.rank).print)
        ranks.agree(lambda: shared.save(options, table) if ranks.rank == 0 else None)
