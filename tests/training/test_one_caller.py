"""MPI is called by one thread at a time, as it was initialised for, also where a thread moves messages."""

import tempfile

import pytest

from bench.growth import counting
from mpilayer import train
from mpilayer.exchange.channel import running
from mpilayer.mpi import engine, job
from tests.ranks import mpiexec

SCHEDULES = ["ps", "rma --checkpoint-every 5", "gossip", "partial --checkpoint-every 5",
             "auto", "delayed --delay auto --check-replicas 1"]


class Alone:
    """Told of every MPI call of the training loop."""

    made = 0

    def add(self, call, size):
        self.made += 1
        held = engine._lock[0]  # by the loop, or by the thread at this moment: then it is the next call that shows it
        beside = [channel for channel in running() if channel.settings.progress == "thread" and not channel.quiet]
        assert held or not beside, f"{call} while a thread moves messages"


def train_all(schedules):
    with job.job() as ranks:
        for words in schedules:
            calls = Alone()
            with tempfile.TemporaryDirectory() as folder, job.Ranks(counting(ranks.MPI, calls)(ranks.comm)) as counted:
                folder, more = ranks.bcast(folder), words.split()
                more += ["--checkpoint", f"{folder}/kept"] if "--checkpoint-every" in more else []
                assert train.run(counted, ["--schedule", *more, "--progress", "thread", "--steps", "24",
                                           "--bucket", "64k", "--quiet", "--out", folder]) == 0
                ranks.meet()
            assert calls.made > 10


@pytest.mark.parametrize("half", [0, 1])
def test_no_call_of_the_training_loop_coincides_with_the_thread_s(half):
    done = mpiexec(2, "-c", "from tests.training.test_one_caller import train_all; "
                   f"train_all({SCHEDULES[half::2]!r})", seconds=100)
    assert done.returncode == 0, done.stdout + done.stderr
