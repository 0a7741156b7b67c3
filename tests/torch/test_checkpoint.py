"""A PyTorch loop goes on from a checkpoint to the same bits, with sums in flight."""

import pytest

pytest.importorskip("torch")

import torch

import mpilayer.torch
from mpilayer.base.errors import AgreedError, UserError
from tests.ranks import on_ranks
from tests.storage.test_checkpoints import Folder
from tests.torch.models import adamw, backward, build, part_of, sgd
from tests.torch.test_distribute import PLAIN

STEPS, AT = 7, 4


class Loop:
    """A model with dropout, and a learning rate that falls."""

    def __init__(self, ranks, name, optimizer, seed=3, **given):
        self.ranks, model = ranks, torch.nn.Sequential(build(name, seed), torch.nn.Dropout(0.2))
        self.model, self.made = mpilayer.torch.distribute(model, optimizer(model), ranks=ranks, **PLAIN | given)

    def run(self, first, last):
        for t in range(first, last):
            for group in self.made.param_groups:
                group["lr"] = 0.01 / (1 + t)
            self.made.zero_grad()
            backward(self.model.train(), t, part_of(self.ranks.rank, self.ranks.size))
            self.made.step()
        return self

    def end(self):
        self.model.drain()
        found = [tensor.clone() for tensor in self.model.state_dict().values()]
        self.model.undistribute()
        return found


CASES = [("partly", adamw, {"schedule": "delayed", "overlap": "forward", "delay": 1}),
         ("mlp", sgd, {"schedule": "layerwise", "overlap": "forward", "wire": "bfloat16", "error_feedback": True}),
         ("cnn", sgd, {"schedule": "planned", "overlap": "forward"}),
         ("mlp", adamw, {"schedule": "delayed", "delay": 2}), ("cnn", sgd, {})]


@on_ranks(2)
def test_the_same_bits(ranks):
    for name, optimizer, given in CASES:
        torch.manual_seed(ranks.rank)
        whole = Loop(ranks, name, optimizer, **given)
        torch.manual_seed(ranks.rank)
        expected = whole.run(0, STEPS).end()
        with Folder(ranks) as folder:
            torch.manual_seed(0)
            first = Loop(ranks, name, optimizer, **given)
            torch.manual_seed(ranks.rank)
            first.run(0, AT)
            mpilayer.torch.save(folder, first.model, first.made, step=AT)
            first.run(AT, AT + 1).end()
            again = Loop(ranks, name, optimizer, seed=8, **given)
            assert mpilayer.torch.load(folder, again.model, again.made) == {"step": AT}
            for mine, theirs in zip(again.run(AT, STEPS).end(), expected, strict=True):
                assert torch.equal(mine, theirs), (name, given)


@on_ranks(2)
def test_errors(ranks):
    with pytest.raises(UserError, match="the model is not distributed"):
        mpilayer.torch.save("/tmp", torch.nn.Linear(1, 1), None)
    with Folder(ranks) as folder:
        loop, other = Loop(ranks, "mlp", sgd), Loop(ranks, "cnn", sgd)
        assert mpilayer.torch.load(folder, loop.model, loop.made) is None
        mpilayer.torch.save(folder, loop.model, loop.made)
        with pytest.raises(AgreedError, match="is of a run with model 0.1.weight"):
            mpilayer.torch.load(folder, other.model, other.made)
        loop.end()
        other.end()
