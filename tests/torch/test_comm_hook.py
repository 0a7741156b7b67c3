"""The communication hook of DistributedDataParallel against a serial loop."""

import pytest

pytest.importorskip("torch")

import torch
from torch.nn.parallel import DistributedDataParallel

import mpilayer.torch
from mpilayer.base.errors import UserError
from tests.ranks import on_ranks
from tests.torch.models import backward, build, part_of
from tests.torch.test_process_group import group

THREADS = "multiple"
STEPS, RATE = 7, 0.05


def serial(name, size, delay):
    """Weights of a loop in one process that applies the gradient of step t > 0 in step t + delay, that of 0 at once."""
    model, late = build(name), []
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for t in range(STEPS):
        optimizer.zero_grad()
        for rank in range(size):
            backward(model, t, part_of(rank, size), 1 / size)
        late.append([p.grad.clone() for p in model.parameters()])
        step = t - delay if t else 0
        for parameter, gradient in zip(model.parameters(), late[step] if t == 0 or step > 0 else (), strict=False):
            parameter.data -= RATE * gradient
    return [p.detach() for p in model.parameters()]


@on_ranks(1, 3)
def test_sums_are_those_of_delay_steps_ago(ranks):
    for name in ("mlp", "transformer"):
        for delay in (0, 1, 2):
            with group():
                model = DistributedDataParallel(build(name), bucket_cap_mb=0.001)
                model.register_comm_hook(mpilayer.torch.Late(delay), mpilayer.torch.comm_hook)
                optimizer = torch.optim.SGD(model.parameters(), RATE)
                for t in range(STEPS):
                    optimizer.zero_grad()
                    backward(model, t, part_of(ranks.rank, ranks.size))
                    optimizer.step()
                found = [p.detach() for p in model.parameters()]
            torch.testing.assert_close(found, serial(name, ranks.size, delay), rtol=1e-4, atol=1e-6)


def test_a_delay_is_a_number_of_steps():
    for delay in (-1, 0.5, "auto"):
        with pytest.raises(UserError, match="expected a whole number"):
            mpilayer.torch.Late(delay)
