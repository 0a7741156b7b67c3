"""The running statistics of batch normalization, averaged over ranks that have made different numbers of steps."""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from mpilayer import Ranks
from mpilayer import train as main_job
from mpilayer.training.trainer import Trainer
from tests.ranks import on_ranks


def trainer(ranks, state, made):
    """A Trainer of which only the net's state and the steps made matter."""
    found = Trainer.__new__(Trainer)
    found.ranks, found.net, found.made = ranks, SimpleNamespace(state=state), made
    return found


@on_ranks(1, 2, 4)
def test_statistics_are_weighted_by_steps(ranks):
    everyone = np.random.default_rng(0).standard_normal((ranks.size, 50), np.float32)
    for steps in ([22] * 4, [22, 0, 0, 0], [30, 12, 1, 0], [0, 5, 7, 1]):
        steps = steps[:ranks.size] if sum(steps[:ranks.size]) else [1] * ranks.size
        own = trainer(ranks, everyone[ranks.rank], steps[ranks.rank])
        want = np.average(everyone.astype(np.float64), axis=0, weights=steps)
        np.testing.assert_allclose(own.mean_state(), want, rtol=0, atol=1e-6)
        assert own.made == 0


@on_ranks(4)
def test_what_only_serves_leaves_no_trace(ranks):
    """Servers have the statistics that the net began with; the worker's are everyone's, to the bit."""
    worked = np.random.default_rng(1).standard_normal(50).astype(np.float32)
    state = worked if ranks.rank == 0 else np.full(50, np.float32(1e9))
    np.testing.assert_array_equal(trainer(ranks, state, 22 * (ranks.rank == 0)).mean_state(), worked)


@on_ranks(2, 4)
def test_ranks_with_equal_steps_have_the_bits_of_a_plain_mean(ranks):
    state = np.random.default_rng(ranks.rank).standard_normal(50).astype(np.float32)
    plain = ranks.total(state / ranks.size)
    np.testing.assert_array_equal(trainer(ranks, state, 22).mean_state(), plain)


@on_ranks(4)
def test_a_worker_with_three_servers_trains_as_one_process(ranks):
    """The same weights and the same test loss, to the bit: the net has batch normalization."""
    with tempfile.TemporaryDirectory() as folder:
        folder, words = Path(ranks.bcast(folder)), ["--net", "resnet-mini", "--steps", "3", "--quiet", "--out"]
        main_job.run(ranks, [*words, str(folder / "ps"), "--schedule", "ps", "--servers", "3"])
        if ranks.rank == 0:
            main_job.run(Ranks(ranks.MPI.COMM_SELF), [*words, str(folder / "one")])
            served, alone = (json.loads((folder / name / "run.json").read_text())["final"] for name in ("ps", "one"))
            for fact in ("weights_sha256", "test_loss", "test_accuracy"):
                assert served[fact] == alone[fact], fact
        ranks.meet()
