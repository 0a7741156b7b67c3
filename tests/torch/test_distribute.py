"""Models on several ranks against a loop in one process on the same samples."""

import re
from contextlib import nullcontext

import pytest

pytest.importorskip("torch")

import torch

import mpilayer.torch
from mpilayer.base.errors import AgreedError, UserError
from mpilayer.schedules import delay_policy
from mpilayer.torch import trial
from mpilayer.torch.trial import ORDER
from tests.ranks import TOP, environment, mpiexec, on_ranks, python
from tests.torch.models import MODELS, adamw, backward, batch, build, part_of, serial, sgd

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


def trained(ranks, name, optimizer, schedule, overlap, steps=STEPS, clip=None, accumulate=1, halve=True, **given):
    """A model after so many steps on this rank's part."""
    model = build(name, seed=3 + ranks.rank)
    given = PLAIN | given | ({"clip": clip} if overlap else {})
    model, made = mpilayer.torch.distribute(model, optimizer(model), schedule, overlap=overlap, ranks=ranks, **given)
    scheduler, part = torch.optim.lr_scheduler.StepLR(made, 2, 0.5 if halve else 1.0), part_of(ranks.rank, ranks.size)
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


@on_ranks(3)
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
        made.zero_grad()
        backward(model, t, part_of(ranks.rank, ranks.size))
    model.drain()
    assert distance(model, build("mlp")) == 0
    with pytest.raises(UserError, match=r"step 3 \| 1.weight \| backward again without a step"):
        backward(model, 3, part_of(ranks.rank, ranks.size))
    model.undistribute()


@on_ranks(2)
def test_the_way_of_progress_is_tried_and_changes_nothing(ranks):
    steps = 2 + len(ORDER) * trial.STEPS
    for overlap in (None, "forward"):
        model = build("cnn")
        model, made = mpilayer.torch.distribute(model, sgd(model), "delayed", overlap=overlap, ranks=ranks,
                                                **PLAIN | {"progress": "auto"})
        for t in range(steps):
            made.zero_grad()
            backward(model, t, part_of(ranks.rank, ranks.size))
            made.step()
        assert model.distributed.sums.trial.over
        kept = model.distributed.queue.settings.progress
        model.undistribute()
        assert len(set(ranks.gather(kept))) == 1
        oracle = trained(ranks, "cnn", sgd, "delayed", overlap, steps, halve=False)
        assert distance(model, oracle) == 0


@on_ranks(2)
def test_a_delay_that_is_chosen_applies_every_gradient_once(ranks):
    """At a constant rate, without momentum, of a model that is linear: the order of updates does not matter."""
    found, window = [], delay_policy.WINDOW
    delay_policy.WINDOW = 2
    model = torch.nn.Linear(4, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    model, made = mpilayer.torch.distribute(model, optimizer, "delayed", delay="auto", overlap="forward", ranks=ranks,
                                            **PLAIN)
    made.policy.shares = lambda *_: {"exposed": 0.5 if len(found) < 20 else 0.0, "busy": 0.5}
    for t in range(40):
        made.zero_grad()
        model(torch.full((1, 4), float(t + ranks.rank))).sum().backward()
        made.step()
        found.append(made.delay)
    model.undistribute()
    delay_policy.WINDOW = window
    assert (max(found), found[0]) == (3, 0)
    assert found[-1] < 3
    torch.testing.assert_close(model.weight, torch.full((1, 4), -sum(t + 0.5 for t in range(40))))


@on_ranks(2, 3)
def test_a_scaler_of_losses(ranks):
    """Late gradients have the scale of the step that applies them; what overflows on one rank is skipped on all."""
    for delay in (0, 1, 2):
        model, twin, gradients = build("mlp"), build("mlp"), []
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        model, made = mpilayer.torch.distribute(model, sgd(model), "delayed", delay=delay, scaler=scaler, ranks=ranks,
                                                **PLAIN)
        plain = sgd(twin)
        for t in range(8):
            made.zero_grad()
            x, y = batch(t, part_of(ranks.rank, ranks.size))
            loss = torch.nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss * (float("inf") if t == 3 and ranks.rank == 1 else 1.0)).backward()
            scaler.step(made)
            scaler.update()
            twin.zero_grad()
            for rank in range(ranks.size):
                backward(twin, t, part_of(rank, ranks.size), 1 / ranks.size)
            gradients.append([p.grad for p in twin.parameters()])
            if t >= delay and t - delay != 3:
                for parameter, gradient in zip(twin.parameters(), gradients[t - delay], strict=True):
                    parameter.grad = gradient
                plain.step()
        assert len(set(ranks.gather(scaler.get_scale()))) == 1
        check_equal(ranks, model, twin, "mlp")
        model.undistribute()


@on_ranks(2)
def test_buffers_are_averaged_by_a_drain(ranks):
    model = build("cnn")
    model, made = mpilayer.torch.distribute(model, sgd(model), ranks=ranks, **PLAIN)
    backward(model, 0, part_of(ranks.rank, ranks.size))
    before = ranks.gather(model[1].running_mean.numpy().copy())
    model.drain()
    assert not (before[0] == before[1]).all()
    torch.testing.assert_close(model[1].running_mean.numpy(), (before[0] + before[1]) / 2)
    model.undistribute()


@on_ranks(2)
def test_a_model_that_is_changed_is_named(ranks):
    def changed(change):
        model = build("mlp")
        model, made = mpilayer.torch.distribute(model, sgd(model), ranks=ranks, **PLAIN)
        backward(model, 0, part_of(ranks.rank, ranks.size))
        made.zero_grad()
        change(model)
        with pytest.raises(UserError) as caught:
            model(torch.ones(2, 48, dtype=model[1].weight.dtype)).sum().backward()
        return str(caught.value)

    assert "step 1 | 3.weight | is torch.bfloat16, and was torch.float32 | expected parameters that stay" in changed(
        lambda model: model.to(torch.bfloat16)).replace("3.bias", "3.weight")
    assert "step 1 | 1.weight | is not the model's any more" in changed(
        lambda model: setattr(model[1], "weight", torch.nn.Parameter(torch.ones(16, 48))))


@on_ranks(2)
def test_a_compiled_model_is_warned_of(ranks):
    model = build("mlp")
    model.compile(backend="eager")
    with pytest.warns(UserWarning, match="try: compiling block by block") if ranks.rank == 0 else nullcontext():
        mpilayer.torch.distribute(model, sgd(model), ranks=ranks, **PLAIN)
    model.undistribute()


@on_ranks(2)
def test_mistakes_are_named(ranks):
    model = build("mlp")
    for error, given in (("schedule 'none' | expected one of oneshot", {"schedule": "none"}),
                         ("overlap 'all' | expected", {"overlap": "all"}),
                         ("delay 2 | expected", {"delay": 2}), ("clip goes with overlap", {"clip": 1.0}),
                         ('delay "auto" | goes with', {"schedule": "delayed", "delay": "auto"}),
                         ("overlap 'forward' | expected None", {"schedule": "diloco", "overlap": "forward"}),
                         ("period 0 | expected a positive", {"schedule": "diloco", "period": 0}),
                         ("delay 3 | expected a number of steps less than the period of 3",
                          {"schedule": "local-sgd", "delay": 3, "period": 3}),
                         ("a GradScaler looks at", {"scaler": object(), "overlap": "forward"})):
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


def test_the_examples_learn():
    done = mpiexec(2, TOP / "examples" / "torch_resnet.py", "--epochs", 2)
    assert done.returncode == 0, done.stderr
    assert float(re.findall(r"test accuracy ([\d.]+)%", done.stdout)[-1]) > 80
    done = mpiexec(2, TOP / "examples" / "torch_transformer.py", "--steps", 60)
    assert done.returncode == 0, done.stderr
    assert float(re.findall(r"test perplexity ([\d.]+)", done.stdout)[-1]) < 30, "256 if it knew nothing"


def test_without_pytorch_it_says_what_to_install():
    done = python("import sys; sys.modules['torch'] = None\nimport mpilayer.torch", environment())
    assert done.stderr.splitlines()[-1].endswith("PyTorch is not installed | try: pip install 'mpilayer[torch]'")
