"""Sums among GPUs, by an NCCL behind which there is MPI: what is tested is who waits for what, and in which order."""

import sys

import pytest

import tests.emulator
from mpilayer.base.errors import UserError
from mpilayer.gpu import device
from mpilayer.train import NET
from mpilayer.training.options import read_options
from tests.gpu.test_train import LONG, Run
from tests.ranks import on_ranks, train


@on_ranks(2, seconds=LONG)
def test_gpus_sum_among_themselves_what_mpi_would(ranks):
    tests.emulator.install()
    for words in (["--schedule", "delayed", "--delay", 2], ["--schedule", "planned", "--steps", 6]):
        here = Run(ranks, *words)
        there = Run(ranks, *words, "--device", "gpu", "--reduction", "nccl")
        assert there.is_as(here), words
        assert there.trainer.channel.description == "gradients are summed by NCCL"
        kinds = {kind for step in there.trainer.trace.steps for kind, *_ in step}
        assert {"sum", "compute", "update"} <= kinds
        assert not kinds & {"out", "back", "request"}


@pytest.mark.parametrize(("words", "message"), [
    ([], "--reduction nccl goes with --device gpu"),
    (["--device", "gpu", "--wire", "bfloat16"], "--reduction nccl goes with --wire float32"),
    (["--device", "gpu", "--schedule", "split"], "not with --schedule split"),
])
def test_what_does_not_go_together(words, message):
    with pytest.raises(UserError, match=message):
        read_options([*words, "--reduction", "nccl"], NET, 2)


def test_a_cupy_without_nccl(monkeypatch):
    tests.emulator.install()
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", None)
    monkeypatch.delattr("cupy.cuda.nccl", raising=False)
    with pytest.raises(UserError, match="CuPy does not find NCCL .* | try: pip install nvidia-nccl-cu13"):
        device.nccl()


def test_ranks_that_share_a_gpu():
    done = train(2, "--device", "gpu", "--reduction", "nccl", "--steps", "1", **tests.emulator.environment())
    assert done.returncode == 2
    assert done.stderr.count("NCCL wants a GPU for each rank, here 1 for 2 ranks | try: --reduction native") == 1
