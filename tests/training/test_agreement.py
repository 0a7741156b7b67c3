"""Ranks that are not alike: who differs, in what, is said by all of them; replicas that part are found, or healed."""

import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpilayer
from mpilayer import train as main_job
from mpilayer.base.errors import AgreedError
from mpilayer.mpi import agreement
from mpilayer.training import replicas
from tests.ranks import mpiexec, on_ranks

SHORT = ["--quiet", "--steps", "12", "--progress", "poll", "--bucket", "0", "--chunk", "none"]
UNLIKE = [  # what rank 1 is given and the others not
    "--lr 0.1", "--seed 7", "--momentum 0.5", "--weight-decay 0.1", "--optimizer adamw", "--warmup 3",
    "--lr-policy step", "--clip 1", "--label-smoothing 0.1", "--augment flip", "--net resnet-mini", "--steps 13",
    "--epochs 1", "--batch 32", "--schedule oneshot", "--schedule delayed:2", "--schedule local-sgd+period=3",
    "--schedule ps+staleness=1", "--bucket 1k", "--chunk 64k", "--reduction ordered", "--wire bfloat16",
    "--progress kernel", "--data synthetic", "--validation 0.1", "--batch-statistics all", "--out /tmp/other", "--help",
    "--timeout 9", "--slow 0:2", "--jitter 0.1", "--check-replicas 3", "--heal"]


def disagree(ranks, action, *parts):
    """All ranks raise one error, which has these parts."""
    with pytest.raises(AgreedError) as found:
        action()
    told = str(found.value)
    assert ranks.gather(told) == [told] * ranks.size
    for part in parts:
        assert part in told, told
    return told


@on_ranks(2, 3)
def test_unlike_options_are_named_with_their_ranks(ranks):
    for words in UNLIKE:
        mine = words.split() if ranks.rank == 1 else []
        name = words.split()[0]
        given = [word for place, word in enumerate(SHORT) if name not in (word, SHORT[max(0, place - 1)])]
        argv = [*given, *mine] if ranks.rank == 1 else SHORT
        told = disagree(ranks, lambda argv=argv: main_job.run(ranks, argv), f"{name}: ", "on rank 1 (", "try: ")
        others = "rank 0 (" if ranks.size == 2 else "ranks 0 ("
        assert others in told


def test_a_real_run():
    done = mpiexec(1, "-m", "mpilayer.train", "--steps", 3, ":", "-n", 1, sys.executable, "-m", "mpilayer.train",
                   "--lr", "0.1", "--steps", 3)
    assert done.returncode == 2
    assert "--lr: 0.007 on rank 0" in done.stderr
    assert done.stderr.count("mpilayer: ") == 1


@on_ranks(2)
def test_other_versions_are_named(ranks):
    with pytest.MonkeyPatch.context() as patch:
        version = importlib.metadata.version
        patch.setattr(importlib.metadata, "version",
                      lambda name: "0.0.1" if (name, ranks.rank) == ("numba", 1) else version(name))
        disagree(ranks, lambda: main_job.run(ranks, SHORT), "numba: ", "0.0.1 on rank 1 (", "one environment")


def file_of(folder, rank, change):
    """A data file of which rank 1's copy is changed."""
    x = np.random.default_rng(0).integers(0, 255, (200, 8, 8, 1)).astype(np.uint8)
    y = np.arange(200) % 10
    if rank == 1:
        x, y = change(x, y)
    path = folder / f"rank{rank}" / "data.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = x, y
    return path


def other_pixel(x, y):
    x[0, 0, 0, 0] ^= 1
    return x, y


def other_label(x, y):
    y[57] = (y[57] + 1) % 10
    return x, y


@on_ranks(2)
def test_other_data_is_named(ranks):
    """The path is the same everywhere; what lies there is not."""
    for change, part in ((other_pixel, "digest of training samples"), (other_label, "digest of training samples"),
                         (lambda x, y: (x[:150], y[:150]), "training samples: 180 on rank 0"),
                         (lambda x, y: (np.repeat(x, 2, 2), y), "shape of the data: (8, 8, 1) on rank 0")):
        with tempfile.TemporaryDirectory() as folder:
            path = file_of(Path(ranks.bcast(folder)), ranks.rank, change)
            real = main_job.open_data
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(main_job, "open_data", lambda name, ranks, **form: real(str(path), **form))  # noqa: B023
                patch.setattr(replicas, "data_facts", lambda data, facts=replicas.data_facts: {
                    **facts(data), "data": "data.h5"})
                disagree(ranks, lambda: main_job.run(ranks, [*SHORT, "--data", "data.h5", "--batch", "20"]), part,
                         "rank 1 (", "the same files on all hosts")
            ranks.meet()


@on_ranks(3)
def test_the_first_ranks_weights_are_everyones(ranks):
    real = main_job.load
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        def load(options, ranks):
            data, net = real(options, ranks)
            net.weights += ranks.rank
            return data, net

        patch.setattr(main_job, "load", load)
        main_job.run(ranks, [*SHORT, "--out", ranks.bcast(folder)])
        ranks.meet()


def test_of_many_ranks_ten_are_named_and_the_others_counted():
    everyone = [("node", {"--lr": "0.1"} if rank % 3 else {}) for rank in range(3000)]
    [text] = agreement.differences({"--lr": "0.2", "--seed": "0"}, everyone)
    assert text.startswith("--lr: 0.2 on ranks 0 (node), 3 (node)")
    assert "and 990 more; 0.1 on ranks 1 (node)" in text
    assert text.endswith("and 1990 more")


@on_ranks(2, 3)
def test_only_what_differs_is_gathered(ranks):
    """As few bytes as needed: 65,536 ranks may have thousands of facts."""
    facts, sent, real = {f"fact {number}": number for number in range(9)}, [], ranks.gather_to_first
    for culprit in range(ranks.size):
        facts["fact 5"] = "other" if ranks.rank == culprit else 5
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranks, "gather_to_first", lambda value: sent.append(value[1]) or real(value))
            with pytest.raises(AgreedError, match=rf"^fact 5: .*other on rank {culprit} \("):
                agreement.compare(ranks, facts, "nothing")
        unlike_the_first = ranks.rank == culprit if culprit else ranks.rank > 0
        assert len(sent.pop()) == unlike_the_first


@on_ranks(1, 2, 3)
def test_equal_facts_are_no_error(ranks):
    agreement.compare(ranks, {"a": 1, "b": [2.5, None]}, "nothing")


# The library


@on_ranks(2, 3)
def test_a_queue_of_unlike_ranks_is_an_error_on_all(ranks):
    def opened(arrays=(("a", 8), ("b", 9)), **given):
        parameters = mpilayer.Parameters({name: np.zeros(size, np.float32) for name, size in arrays})
        mpilayer.GradientQueue(ranks, parameters, **{"progress": "poll", "bucket": 0, "chunk": None, **given})

    for other, part in (({"delay": 1}, "delay: "), ({"order": "need"}, "order: "), ({"wire": "bfloat16"}, "wire: "),
                        ({"reduction": "ordered"}, "reduction: "), ({"chunk": 64}, "chunk: "),
                        ({"arrays": (("a", 8), ("c", 9))}, "layer 1: b of 9 numbers on "),
                        ({"arrays": (("b", 9), ("a", 8))}, "layer 0: a of 8 numbers on "),
                        ({"arrays": (("a", 8), ("b", 10))}, "layer 1: b of 9 numbers on "),
                        ({"arrays": (("a", 8),)}, "layers: 2 on ")):
        disagree(ranks, lambda other=other: opened(**(other if ranks.rank == 1 else {})), part, "on rank 1 (")


@on_ranks(2, 3)
def test_parameters_of_the_first_rank(ranks):
    parameters = mpilayer.Parameters({"a": np.full(8, ranks.rank + 1, np.float32), "b": np.arange(3, dtype=np.float32)})
    parameters.broadcast(ranks)
    assert (parameters["a"] == 1).all()
    assert parameters["b"].tolist() == [0, 1, 2]


# While training


def net_of(*layers):
    return SimpleNamespace(layers=[SimpleNamespace(w=np.asarray(w, np.float32)) for w in layers])


@settings(deadline=None)  # the first one compiles
@given(st.lists(st.floats(width=32), min_size=2, max_size=40), st.data())
def test_a_digest_sees_every_bit_and_every_swap(numbers, data):
    w = np.array(numbers, np.float32)
    before = replicas.layer_digests(net_of(w))
    flipped = w.copy()
    flipped.view(np.uint32)[data.draw(st.integers(0, w.size - 1))] ^= np.uint32(1 << data.draw(st.integers(0, 31)))
    assert replicas.layer_digests(net_of(flipped)) != before
    i, j = data.draw(st.integers(0, w.size - 1)), data.draw(st.integers(0, w.size - 1))
    swapped = w.copy()
    swapped[[i, j]] = w[[j, i]]
    same = (swapped.view(np.uint32) == w.view(np.uint32)).all()
    assert (replicas.layer_digests(net_of(swapped)) == before) == same
    wanted = sum(int(word) * ((2 * place * replicas.FACTOR + 1) % 2**64) for place, word in
                 enumerate(w.view(np.uint32))) % 2**64
    assert int(before[0]) == wanted


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=2, max_size=9), st.data())
def test_the_digest_of_all_layers_sees_numbers_that_change_places(numbers, data):
    w = np.array(numbers, np.float32)[:, None]
    before = replicas.digest_of_all(replicas.layer_digests(net_of(*w)))
    i, j = (data.draw(st.integers(0, len(w) - 1)) for _ in range(2))
    same = w[i].tobytes() == w[j].tobytes()
    w[[i, j]] = w[[j, i]]
    assert (replicas.digest_of_all(replicas.layer_digests(net_of(*w))) == before) == same


def flipping(patch, ranks, step=10, culprit=1):
    """One mantissa bit of one rank's weights flips before a step."""
    real = main_job.Trainer.step

    def flipped(self, t, *arguments):
        if (t, self.ranks.rank) == (step, culprit):
            self.net.layers[2].w.view(np.uint32)[5] ^= np.uint32(1 << 20)
        return real(self, t, *arguments)

    patch.setattr(main_job.Trainer, "step", flipped)


@on_ranks(2, 3)
def test_a_flipped_bit_is_found_and_named(ranks):
    for words, place in (("", "step 11 | "), ("--check-replicas 4", "step 11 | "), ("--check-replicas 1", "step 10 | "),
                         ("--schedule planned --check-replicas 5 --steps 20", "step 14 | "),
                         ("--schedule delayed:2 --check-replicas 5 --steps 20", "step 14 | "),
                         ("--schedule oneshot --check-replicas 3", "step 11 | ")):
        with pytest.MonkeyPatch.context() as patch:
            flipping(patch, ranks)
            parts = ["| conv3 |", "rank 1 (" if ranks.size > 2 else "no majority", "expected equal weights"]
            disagree(ranks, lambda words=words: main_job.run(ranks, [*SHORT, *words.split()]), place, *parts)


@on_ranks(3)
def test_healed_ranks_go_on_with_the_weights_of_the_majority(ranks):
    for words in ("--check-replicas 1", "--check-replicas 1 --optimizer adamw --schedule planned"):
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
            flipping(patch, ranks, culprit=2)
            checks, real = [], replicas.ReplicaCheck._differ
            patch.setattr(replicas.ReplicaCheck, "_differ", lambda self, everyone, real=real, checks=checks: (
                checks.append(1), real(self, everyone)))
            main_job.run(ranks, [*SHORT, *words.split(), "--heal", "--out", ranks.bcast(folder)])
            assert len(checks) == 1, "found once, and equal from then on"
            ranks.meet()


@on_ranks(3)
def test_healed_at_an_epochs_end_it_is_as_if_nothing_had_been(ranks):
    def hash_of(*words):
        with tempfile.TemporaryDirectory() as own:
            folder = ranks.bcast(own)
            main_job.run(ranks, [*SHORT, "--batch", "600", "--steps", "5", *words, "--out", folder])
            ranks.meet()
            record = json.loads(Path(folder, "run.json").read_text())
            ranks.meet()
        assert record["final"]["replicas"] == "equal"
        return record["final"]["weights_sha256"]

    real = replicas.ReplicaCheck.after_drain
    for culprit, words in enumerate((["--optimizer", "adamw"], ["--schedule", "delayed:1"], [])):
        def flipped(self, t, culprit=culprit):
            if t < 3 and ranks.rank == culprit:
                self.net.weights.view(np.uint32)[7] ^= 1
            real(self, t)

        undisturbed = hash_of(*words)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(replicas.ReplicaCheck, "after_drain", flipped)
            assert hash_of(*words, "--heal") == undisturbed


@on_ranks(2)
def test_what_the_end_finds_is_an_error(ranks):
    with pytest.MonkeyPatch.context() as patch:
        flipping(patch, ranks)
        disagree(ranks, lambda: main_job.run(ranks, [*SHORT, "--check-replicas", "0"]),
                 "ended with 2 different sets of weights")
