"""--on-failure shrink: ranks that die are left behind, and the others go on as fewer ranks would from there."""

import contextlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from mpilayer.base.errors import AgreedError, UserError
from mpilayer.base.state import State
from mpilayer.mpi.ranks import Ranks
from mpilayer.storage import checkpoint_files
from mpilayer.storage.snapshots import LEAST, SHARE, Snapshots
from mpilayer.training.recovery import check_trainer
from tests import openmpi
from tests.ranks import on_ranks, train

FIXED = ("--batch", 48, "--steps", 30, "--bucket", "4k", "--chunk", "32k", "--progress", "poll")
DYING = """
import os, signal, sys
from mpilayer import train
from mpilayer.training.trainer import Trainer
step, deaths = Trainer.step, dict(map(int, each.split(":")) for each in sys.argv.pop(1).split(","))
def dying(self, t, *rest):
    if deaths.get(int(os.environ["OMPI_COMM_WORLD_RANK"])) == t:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, t, *rest)
Trainer.step = dying
train.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def open_mpi(tmp_path_factory):
    return openmpi.installed(tmp_path_factory.mktemp("openmpi"))


def finished(folder):
    return json.loads((folder / "run.json").read_text())["final"]


def died(open_mpi, tmp_path, deaths, *words, count=4):
    """A run in which {rank of the start: step before which it kills itself}."""
    (tmp_path / "dying.py").write_text(DYING)
    told = ",".join(f"{rank}:{step}" for rank, step in deaths.items())
    return openmpi.mpiexec(open_mpi, count, tmp_path / "dying.py", told, *FIXED, "--on-failure", "shrink", "--out",
                           tmp_path / "out", *words, seconds=100)


def dying(open_mpi, tmp_path, deaths, *words, count=4):
    """The end of such a run, and what it has printed."""
    done = died(open_mpi, tmp_path, deaths, *words, count=count)
    assert done.returncode == 0, done.stdout + done.stderr
    return finished(tmp_path / "out"), done.stdout


def test_the_others_come_to_the_bits_of_fewer_ranks_from_the_snapshot_on(open_mpi, tmp_path):
    """Also when it is the first rank, which prints and writes, that dies."""
    final, said = dying(open_mpi, tmp_path, {0: 11}, "--snapshot-every", 4, "--quiet")
    assert final["deaths"] == [{"ranks": [0], "in_place": [], "after_step": 8, "living": 3}]
    assert "rank 0 (" in said
    assert ") died | 3 ranks go on from the snapshot after 8 steps" in said
    saving = ("-m", "mpilayer.train", *FIXED, "--quiet", "--checkpoint", tmp_path / "saved", "--checkpoint-every", 8,
              "--keep", 9)
    assert openmpi.mpiexec(open_mpi, 4, *saving).returncode == 0
    for number in checkpoint_files.numbers(tmp_path / "saved"):
        if number > 1:
            shutil.rmtree(checkpoint_files.place(tmp_path / "saved", number))
    fewer = openmpi.mpiexec(open_mpi, 3, *saving, "--resume", "--out", tmp_path / "fewer")
    assert fewer.returncode == 0, fewer.stderr
    assert finished(tmp_path / "fewer")["weights_sha256"] == final["weights_sha256"]


def test_spares_take_the_places_of_the_dead_and_no_bit_changes(open_mpi, tmp_path):
    """Also the place of one that was a spare itself."""
    calm = openmpi.mpiexec(open_mpi, 3, "-m", "mpilayer.train", *FIXED, "--out", tmp_path / "calm")
    assert calm.returncode == 0, calm.stderr
    final, said = dying(open_mpi, tmp_path, {0: 6, 3: 17}, "--snapshot-every", 4, "--spares", 2, count=5)
    assert [(death["ranks"], death["in_place"], death["living"]) for death in final["deaths"]] == [
        ([0], [3], 3), ([3], [4], 3)]
    assert "in place | 3 ranks go on" in said
    assert final["weights_sha256"] == finished(tmp_path / "calm")["weights_sha256"]


@pytest.mark.parametrize(("words", "deaths"), [
    (["--schedule", "delayed", "--delay", 2, "--net", "resnet-mini", "--progress", "thread"], {1: 9, 3: 9}),
], ids=["two at once, no neighbours"])
def test_several_ranks_die(open_mpi, tmp_path, words, deaths):
    final, _ = dying(open_mpi, tmp_path, deaths, *words, "--snapshot-every", 5)
    assert sorted(rank for death in final["deaths"] for rank in death["ranks"]) == sorted(deaths)
    assert final["deaths"][-1]["living"] == 2
    assert final["replicas"] == "equal"
    assert final["steps"] == 30


def test_without_ulfm_it_is_refused_with_a_way_out():
    done = train(2, "--on-failure", "shrink", "--steps", 1)
    assert done.returncode == 2
    assert "has no ULFM | try: the mpiexec of Open MPI with --with-ft ulfm, or python -m mpilayer.launch" in done.stderr


@pytest.mark.parametrize(("words", "message"), [
    (["--snapshot-every", 3], "--snapshot-every goes with --on-failure shrink"),
    (["--spares", 1], "--spares goes with --on-failure shrink"),
    (["--spares", 1, "--on-failure", "shrink"], "--spares 1 leave none of 1 ranks to compute"),
])
def test_what_does_not_go_together(words, message):
    done = train(1, *words, "--steps", 1)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(("spares", "asynchronous", "own", "message"), [
    (0, False, ["statistics", "velocity/conv1"], "each rank has velocity/conv1 of its own here"),
    (1, True, ["statistics"], "with this --schedule some: no step is made by all ranks together"),
    (1, False, ["statistics", "velocity/conv1"], None),
    (0, False, ["statistics"], None),
])
def test_schedules_that_cannot_go_on_are_refused(spares, asynchronous, own, message):
    state = State(own={name: np.zeros(1) for name in own})
    trainer = SimpleNamespace(schedule=SimpleNamespace(asynchronous=asynchronous), name="some", state=lambda: state)
    refused = pytest.raises(UserError, match=message) if message else contextlib.nullcontext()
    with refused:
        check_trainer(trainer, spares)


OWN = ("--schedule", "local-sgd", "--period", 4)


def test_what_was_a_ranks_own_goes_to_the_one_in_its_place(open_mpi, tmp_path):
    words = "--schedule", "gossip"
    calm = openmpi.mpiexec(open_mpi, 2, "-m", "mpilayer.train", *FIXED, *words, "--out", tmp_path / "calm")
    assert calm.returncode == 0, calm.stderr
    final, _ = dying(open_mpi, tmp_path, {1: 7}, *words, "--snapshot-every", 3, "--spares", 1, count=3)
    assert final["deaths"][0]["living"] == 2
    assert final["weights_sha256"] == finished(tmp_path / "calm")["weights_sha256"]


def test_what_was_a_ranks_own_and_has_no_place_ends_the_job(open_mpi, tmp_path):
    done = died(open_mpi, tmp_path, {1: 7, 2: 14}, *OWN, "--snapshot-every", 3, "--spares", 1, count=3)
    assert done.returncode == 2
    assert "of its own | expected 2 ranks, got 1 | try: more --spares" in done.stderr


class Fewer:
    """Snapshots of three ranks, of which some go on as fewer."""

    def __init__(self, ranks):
        self.ranks, self.snapshots = ranks, Snapshots(ranks, every=5)

    def state(self, step):
        """(State, run) of a rank after so many steps."""
        rank = self.ranks.rank
        equal, own = np.arange(7.0) + step, np.full(3, 10.0 * rank + step)
        return State({"w": equal}, {"mean": own}, {"counter": step}), {"step": step, "loss": float(rank + step)}

    def save(self, step):
        state, run = self.state(step)
        self.snapshots.save(state, run=run)
        for array in (*state.equal.values(), *state.own.values()):
            array[:] = np.nan
        run["loss"] = None

    def without(self, *dead):
        """The newest, for the ranks but these; None on those."""
        alive = self.ranks.rank not in dead
        comm = self.ranks.comm.Split(alive)
        if alive:
            self.snapshots.ranks = Ranks(comm)
            return self.snapshots.newest()
        return None


@on_ranks(3)
def test_what_a_dead_rank_had_of_its_own_is_with_its_neighbour(ranks):
    for dead in range(3):
        fewer = Fewer(ranks)
        fewer.save(5)
        fewer.save(10)
        loaded = fewer.without(dead)
        if loaded:
            state = State({"w": np.zeros(7)}, {"mean": np.zeros(3)})
            loaded.put(state, averaged=("mean",))
            assert state.equal["w"].tolist() == (np.arange(7.0) + 10).tolist()
            assert state.own["mean"].tolist() == [20.0] * 3  # the mean of 10, 20 and 30
            losses = fewer.snapshots.ranks.gather([each["run"]["loss"] for each in loaded.values.values()])
            assert sorted(sum(losses, [])) == [10.0, 11.0, 12.0]
            assert loaded.of_this_rank()["run"] == {"step": 10, "loss": 10.0}
            assert loaded.of_this_rank()["state"] == {"counter": 10}
        ranks.meet()


@on_ranks(3)
def test_who_takes_a_place_has_what_the_dead_rank_had_and_the_same_plan(ranks):
    fewer = Fewer(ranks)
    fewer.snapshots.given = None  # as many steps as they cost
    fewer.save(5)
    fewer.snapshots.every = 70
    if ranks.rank == 2:  # it has been waiting until now
        fewer.snapshots = Snapshots(ranks)
    loaded, state = fewer.snapshots.newest(), fewer.state(0)[0]
    loaded.put(state)
    assert state.equal["w"].tolist() == (np.arange(7.0) + 5).tolist()
    assert state.own["mean"].tolist() == [10.0 * ranks.rank + 5] * 3
    assert loaded.of_this_rank()["run"] == {"step": 5, "loss": ranks.rank + 5.0}
    fewer.save(5)
    assert (fewer.snapshots.every, fewer.snapshots.due) == (70, 75)


@on_ranks(3)
def test_the_newest_is_what_all_have(ranks):
    fewer = Fewer(ranks)
    fewer.save(5)
    fewer.save(10)
    if ranks.rank == 1:  # it had not come so far
        fewer.snapshots.kept.pop()
    loaded = fewer.without(0)
    assert loaded is None or loaded.of_this_rank()["run"]["step"] == 5
    ranks.meet()


@on_ranks(3)
def test_a_rank_and_its_neighbour_take_what_they_had_with_them(ranks):
    assert Fewer(ranks).without(1, 2) is None  # no rank has any
    fewer = Fewer(ranks)
    fewer.save(5)
    died = pytest.raises(AgreedError, match="ranks 1 and 2 have died")
    with died if ranks.rank == 0 else contextlib.nullcontext():
        fewer.without(1, 2)
    ranks.meet()


@on_ranks(2)
def test_snapshots_take_one_percent_of_the_time(ranks):
    snapshots = Snapshots(ranks)
    for seconds, step, every in ((1e-3, 0.1, LEAST), (0.5, 0.1, round(0.5 / SHARE / 0.1)), (9e9, 0.1, 1000)):
        snapshots._plan(40, seconds, step)
        assert snapshots.every == every
        assert snapshots.is_due(40 + every)
        assert not snapshots.is_due(39 + every)
