"""Local SGD and DiLoCo against a serial loop of the rule."""

import pytest

pytest.importorskip("torch")

import torch

import mpilayer.torch
from mpilayer.torch.distribute import PERIODIC
from tests.ranks import on_ranks
from tests.torch.models import backward, build, part_of, sgd
from tests.torch.test_checkpoint import Folder
from tests.torch.test_distribute import PLAIN

STEPS = 11


class Serial:
    """All ranks in one process."""

    def __init__(self, name, size, period, delay, outer_lr, outer_momentum):
        self.models = [build(name) for _ in range(size)]
        self.optimizers = [sgd(model) for model in self.models]
        self.period, self.delay, self.lr, self.momentum = period, delay, outer_lr, outer_momentum
        self.anchor = [p.detach().clone() for p in self.models[0].parameters()]
        self.velocity, self.told = [torch.zeros_like(p) for p in self.anchor], None

    @torch.no_grad()
    def send(self):
        self.told = [[p.detach().clone() for p in model.parameters()] for model in self.models]

    @torch.no_grad()
    def take(self):
        for number, anchor in enumerate(self.anchor):
            mean = sum(anchor - told[number] for told in self.told) / len(self.models)
            self.velocity[number] = self.momentum * self.velocity[number] + mean
            anchor -= self.lr * (mean + self.momentum * self.velocity[number] if self.momentum else mean)
            for model, told in zip(self.models, self.told, strict=True):
                weights = list(model.parameters())[number]
                weights.copy_(anchor + weights - told[number])
        self.told = None

    def run(self):
        for t in range(1, STEPS + 1):
            for rank, (model, optimizer) in enumerate(zip(self.models, self.optimizers, strict=True)):
                optimizer.zero_grad()
                backward(model, t - 1, part_of(rank, len(self.models)))
                optimizer.step()
            if self.told and t % self.period == self.delay:
                self.take()
            if t % self.period == 0:
                self.send()
                if self.delay == 0:
                    self.take()
        if self.told:
            self.take()
        if STEPS % self.period:
            self.send()
            self.take()
        return self.models


def begun(ranks, name, schedule, **given):
    model = build(name, seed=3 + ranks.rank)
    return mpilayer.torch.distribute(model, sgd(model), schedule, ranks=ranks, **PLAIN | given)


def run(ranks, model, optimizer, first, last):
    for t in range(first, last):
        optimizer.zero_grad()
        backward(model, t, part_of(ranks.rank, ranks.size))
        optimizer.step()


CASES = [("local-sgd", {"period": 3}), ("local-sgd", {"period": 4, "delay": 2}), ("local-sgd", {"period": 1}),
         ("diloco", {"period": 3, "outer_lr": 0.6, "outer_momentum": 0.8}), ("diloco", {"period": 5, "delay": 3})]


@on_ranks(1, 3)
def test_the_rule(ranks):
    for name, cases in (("mlp", CASES), ("cnn", CASES[-1:])):
        for schedule, given in cases:
            rule = {"delay": 0, **PERIODIC[schedule]} | given
            expected = Serial(name, ranks.size, **rule).run()
            model, optimizer = begun(ranks, name, schedule, **given)
            run(ranks, model, optimizer, 0, STEPS)
            model.drain()
            found = [p.detach() for p in model.parameters()]
            torch.testing.assert_close(found, [p.detach() for p in expected[ranks.rank].parameters()], rtol=2e-4,
                                       atol=2e-6, msg=lambda text: f"{name} {schedule} {given}: {text}")  # noqa: B023
            model.undistribute()


@on_ranks(2)
def test_a_checkpoint_has_what_is_in_flight(ranks):
    given = {"period": 3, "delay": 2, "outer_lr": 0.6, "outer_momentum": 0.8}
    model, optimizer = begun(ranks, "mlp", "diloco", **given)
    run(ranks, model, optimizer, 0, STEPS)
    expected = [p.detach().clone() for p in model.parameters()]
    model.undistribute()
    with Folder(ranks) as folder:
        model, optimizer = begun(ranks, "mlp", "diloco", **given)
        run(ranks, model, optimizer, 0, 7)
        mpilayer.torch.save(folder, model, optimizer, step=7)
        model.undistribute()
        model, optimizer = begun(ranks, "mlp", "diloco", **given)
        assert mpilayer.torch.load(folder, model, optimizer) == {"step": 7}
        run(ranks, model, optimizer, 7, STEPS)
        for found, right in zip(model.parameters(), expected, strict=True):
            assert torch.equal(found, right)
        model.undistribute()
