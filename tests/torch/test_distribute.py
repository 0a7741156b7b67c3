"""Models on several ranks against a loop in one process on the same samples."""

import re

import pytest

pytest.importorskip("torch")

import torch

import mpilayer.torch
from mpilayer.base.errors import AgreedError, UserError
from tests.ranks import TOP, environment, mpiexec, on_ranks, python
from tests.torch.models import MODELS, adamw, backward, build, part_of, serial, sgd

STEPS = 6
ROUNDING = 2e-5  # of the distance that the weights have moved
PLAIN = {"bucket": 0, "chunk": None, "progress": "poll"}
EXACT = [("oneshot", None), ("layerwise", None), ("planned", None), ("split", None), ("layerwise", "forward"),
         ("planned", "forward")]


def distance(a, b):
    return max((x - y).abs().max().item() for x, y in zip(a.parameters(), b.parameters(), strict=True))


def check_equal(ranks, model, oracle, name, bound=ROUNDING):
    assert distance(model, oracle) <= bound * distance(oracle, build(name)), name
    everyone = ranks.gather([p.detach().numpy().tobytes() for p in model.parameters()])
    assert all(each == everyone[0] for each in everyone), name


def trained(ranks, name, optimizer, schedule, overlap, steps=STEPS, clip=None, accumulate=1, **given):
    """A model after so many steps on this rank's part."""
    model = build(name, seed=3 + ranks.rank)
    given = PLAIN | given | ({"clip": clip} if overlap else {})
    model, made = mpilayer.torch.distribute(model, optimizer(model), schedule, overlap=overlap, ranks=ranks, **given)
    scheduler, part = torch.optim.lr_scheduler.StepLR(made, 2, 0.5), part_of(ranks.rank, ranks.size)
    for t in range(steps):
        made.zero_grad()
        with model.no_sync():
            for micro in range(accumulate - 1):
                backward(model, t * accumulate + micro, part)
        backward(model, t * accumulate + accumulate - 1, part)
        if clip and not overlap:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        made.step()
        scheduler.step()
    if overlap:
        model.drain()
    model.undistribute()
    return model


@on_ranks(2)
def test_exact_schedules_are_one_process_on_all_samples(ranks):
    for name in MODELS:
        oracle = serial(name, ranks.size, sgd, STEPS)
        for schedule, overlap in EXACT:
            check_equal(ranks, trained(ranks, name, sgd, schedule, overlap), oracle, name)


@on_ranks(4)
def test_more_ranks_and_another_optimizer(ranks):
    """Adam divides by roots of what may be near zero."""
    trained_so = trained(ranks, "partly", adamw, "planned", "forward")
    check_equal(ranks, trained_so, serial("partly", ranks.size, adamw, STEPS), "partly", 1e-2)


@on_ranks(2)
def test_a_delay_is_the_serial_rule(ranks):
    for delay in (0, 1, 2):
        for name in ("mlp", "partly"):
            forward = trained(ranks, name, sgd, "delayed", "forward", delay=delay)
            check_equal(ranks, forward, serial(name, ranks.size, sgd, STEPS, delay), name)


@on_ranks(2)
def test_after_backward_with_a_delay_grad_is_that_of_k_steps_ago(ranks):
    model, part = build("mlp"), part_of(ranks.rank, ranks.size)
    model, made = mpilayer.torch.distribute(model, sgd(model), "delayed", delay=2, ranks=ranks, **PLAIN)
    twin, expected = build("mlp"), []
    for t in range(STEPS):
        twin.zero_grad()
        for rank in range(ranks.size):
            backward(twin, t, part_of(rank, ranks.size), 1 / ranks.size)
        expected.append([p.grad.clone() for p in twin.parameters()])
        made.zero_grad()
        backward(model, t, part)  # the weights stay as they are
        for number, parameter in enumerate(model.parameters()):
            if t < 2:
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, expected[t - 2][number])
    model.undistribute()


@on_ranks(2)
def test_clipping_accumulation_and_wires(ranks):
    for overlap in (None, "forward"):
        for more in ({"clip": 0.1}, {"accumulate": 3}):
            oracle = serial("cnn", ranks.size, sgd, STEPS, **more)
            check_equal(ranks, trained(ranks, "cnn", sgd, "planned", overlap, **more), oracle, "cnn")
        rounded = trained(ranks, "cnn", sgd, "layerwise", overlap, wire="bfloat16")
        check_equal(ranks, rounded, serial("cnn", ranks.size, sgd, STEPS), "cnn", 0.02)
        trained(ranks, "mlp", sgd, "layerwise", overlap, wire="powersgd", matrix_rank=2)


@on_ranks(2)
def test_modules_in_bfloat16(ranks):
    model = build("mlp").to(torch.bfloat16)
    model, made = mpilayer.torch.distribute(model, sgd(model), ranks=ranks, **PLAIN)
    x, y = torch.randn(4, 48, dtype=torch.bfloat16), torch.tensor([0, 1, 2, 3])
    torch.nn.functional.cross_entropy(model(x).float(), y).backward()
    assert {p.grad.dtype for p in model.parameters()} == {torch.bfloat16}
    made.step()
    model.undistribute()


@on_ranks(2)
def test_evaluation_and_state_have_all_updates(ranks):
    """In overlapped mode the last step's are made when somebody looks."""
    oracle = serial("cnn", ranks.size, sgd, 3)
    for look in (lambda model, made: model.eval()(torch.zeros(1, 3, 4, 4)), lambda model, made: model.state_dict(),
                 lambda model, made: made.state_dict()):
        model = build("cnn")
        model, made = mpilayer.torch.distribute(model, sgd(model), "planned", overlap="forward", ranks=ranks, **PLAIN)
        scheduler = torch.optim.lr_scheduler.StepLR(made, 2, 0.5)
        for t in range(3):
            made.zero_grad()
            backward(model.train(), t, part_of(ranks.rank, ranks.size))
            made.step()
            scheduler.step()
        look(model, made)
        assert distance(model, oracle) <= ROUNDING * distance(oracle, build("cnn"))
        model.undistribute()


@on_ranks(2)
def test_a_step_that_is_skipped_is_not_applied(ranks):
    model = build("mlp")
    model, made = mpilayer.torch.distribute(model, sgd(model), "layerwise", overlap="forward", ranks=ranks, **PLAIN)
    for t in range(3):
        backward(model, t, part_of(ranks.rank, ranks.size))
    model.drain()
    assert distance(model, build("mlp")) == 0
    model.undistribute()


@on_ranks(2)
def test_mistakes_are_named(ranks):
    model = build("mlp")
    for error, given in (("schedule 'none' | expected one of oneshot", {"schedule": "none"}),
                         ("overlap 'all' | expected", {"overlap": "all"}),
                         ("delay 2 | expected", {"delay": 2}), ("clip goes with overlap", {"clip": 1.0})):
        with pytest.raises(UserError) as caught:
            mpilayer.torch.distribute(model, sgd(model), ranks=ranks, **given)
        assert error in str(caught.value)
    with pytest.raises(UserError, match=r"of shape \(16, 48\) that is not the model's"):
        mpilayer.torch.distribute(model, sgd(build("mlp")), ranks=ranks)
    with pytest.raises(UserError, match="LBFGS"):
        mpilayer.torch.distribute(model, torch.optim.LBFGS(model.parameters()), overlap="forward", ranks=ranks)
    with pytest.raises(UserError, match=r"1.weight \| expected float32, .* got torch.float64 \| try: model.float"):
        mpilayer.torch.distribute(model.double(), sgd(model), ranks=ranks)
    other = torch.nn.Linear(3, 4 + ranks.rank)
    with pytest.raises(AgreedError, match=r"weight: \(4, 3\) torch.float32 on rank 0 .*; \(5, 3\) .* on rank 1"):
        mpilayer.torch.distribute(other, sgd(other), ranks=ranks)
    mlp = build("mlp")
    mpilayer.torch.distribute(mlp, sgd(mlp), ranks=ranks, **PLAIN)
    with pytest.raises(UserError, match="distributed already"):
        mpilayer.torch.distribute(mlp, sgd(mlp), ranks=ranks)
    mlp.undistribute()


def test_the_example_learns():
    done = mpiexec(2, TOP / "examples" / "torch_resnet.py", "--epochs", 2)
    assert done.returncode == 0, done.stderr
    assert float(re.findall(r"test accuracy ([\d.]+)%", done.stdout)[-1]) > 80


def test_without_pytorch_it_says_what_to_install():
    done = python("import sys; sys.modules['torch'] = None\nimport mpilayer.torch", environment())
    assert done.stderr.splitlines()[-1].endswith("PyTorch is not installed | try: pip install 'mpilayer[torch]'")
