"""The request queue as a library: arrays of the user's, and what happens to those who use it wrongly."""

import contextlib
import gc
import threading
import weakref

import numpy as np
import pytest

import kernels
import mpilayer
from mpilayer.base.errors import AgreedError, UserError
from mpilayer.exchange import channel, opening
from mpilayer.exchange.settings import Settings
from mpilayer.mpi import progress as progress_ways
from mpilayer.mpi.progress import PROGRESS
from tests.ranks import on_ranks

SHAPES = {"a": (3, 5), "b": (7,), "c": (), "d": (40, 10)}
UNMEASURED = {"bucket": 0, "chunk": None, "progress": "poll"}


def parameters():
    return mpilayer.Parameters({name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()})


def gradient(rank, step, name):
    """Small whole numbers, which no type rounds."""
    rng = np.random.default_rng([rank, step, *name.encode()])
    return rng.integers(-8, 9, SHAPES[name]).astype(np.float32)


def run(ranks, queue, steps, delay):
    """{(step, name): what settle gave}, of made-up gradients."""
    seen = {}

    def settle(name, up_to):
        for step, total in queue.settle(name, up_to):
            assert total.shape == SHAPES[name]
            seen[step, name] = total.copy()

    for step in range(steps):
        for name in SHAPES:
            settle(name, step - 1 - delay)
        for name in reversed(SHAPES):
            queue.gradient(name, step)[...] = gradient(ranks.rank, step, name)
            queue.post(step, name)
    for name in SHAPES:
        settle(name, steps)
    assert queue.drained
    return seen


def right(ranks, seen, steps, scale=1.0):
    return set(seen) == {(step, name) for step in range(steps) for name in SHAPES} and all(
        np.allclose(total, scale * sum(gradient(rank, step, name) for rank in range(ranks.size)), rtol=1e-6)
        for (step, name), total in seen.items())


@on_ranks(1, 2, 3)
def test_sums_of_own_arrays_are_right_in_every_way(ranks):
    for order in ("backward", "need", "split"):
        for settings in ({}, {"bucket": None}, {"chunk": 64}, {"reduction": "ordered"}, {"wire": "bfloat16"},
                         {"wire": "topk", "top_share": 1.0}, {"wire": "powersgd", "matrix_rank": 10},
                         *({"progress": name} for name in PROGRESS)):
            if order == "split" and settings.get("wire") in ("topk", "powersgd"):
                continue
            for delay in (0, 2):
                with mpilayer.GradientQueue(ranks, parameters(), delay=delay, order=order,
                                            **{**UNMEASURED, **settings}) as queue:
                    assert right(ranks, run(ranks, queue, 5, delay), 5), (order, settings, delay)


@on_ranks(2)
def test_averages(ranks):
    with mpilayer.GradientQueue(ranks, parameters(), average=True, **UNMEASURED) as queue:
        assert right(ranks, run(ranks, queue, 3, 0), 3, scale=0.5)


@on_ranks(2)
def test_what_is_not_said_is_measured(ranks):
    with mpilayer.GradientQueue(ranks, parameters(), delay=1) as queue:
        assert queue.settings.progress in PROGRESS
        assert queue.settings.link.latency > 0
        assert right(ranks, run(ranks, queue, 3, 1), 3)


@on_ranks(2)
def test_without_next_step_no_events_pile_up(ranks):
    with mpilayer.GradientQueue(ranks, parameters(), **UNMEASURED) as queue:
        run(ranks, queue, 50, 0)
        assert sum(map(len, queue.trace.steps)) == 0
        assert queue.trace.seconds["exposed"] > 0


@on_ranks(2, 3)
def test_several_queues_of_one_process(ranks):
    """Each rank posts to them in its own order and waits for the other one first."""
    x, w = np.ones((64, 512), np.float32), np.ones((512, 512), np.float32)
    for progress in PROGRESS:
        with contextlib.ExitStack() as stack:
            queues = [stack.enter_context(mpilayer.GradientQueue(ranks, parameters(), **{
                **UNMEASURED, "progress": progress, "chunk": 64})) for _ in range(3)]
            mine = queues[ranks.rank:] + queues[:ranks.rank]
            for step in range(10):
                for queue in mine:
                    for name in reversed(SHAPES):
                        queue.gradient(name, step)[...] = gradient(ranks.rank, step, name)
                        queue.post(step, name)
                kernels.dense(x, w)
                for queue in mine[::-1]:
                    for name in SHAPES:
                        ((_, total),) = queue.settle(name, step)
                        assert (total == sum(gradient(r, step, name) for r in range(ranks.size))).all()


@on_ranks(2)
def test_zeros_for_what_a_rank_has_no_gradient_of(ranks):
    with mpilayer.GradientQueue(ranks, parameters(), **UNMEASURED) as queue:
        for step in range(2):
            posted = list(reversed(SHAPES))[:2 if ranks.rank else 4]
            for name in posted:
                queue.gradient(name, step)[...] = 1
                queue.post(step, name)
            assert queue.finish(step) == [name for name in reversed(SHAPES) if name not in posted]
            for name in SHAPES:
                ((_, total),) = queue.settle(name, step)
                assert (total == (2 if name in ("c", "d") else 1)).all()


def opened(ranks, **options):
    return mpilayer.GradientQueue(ranks, parameters(), **{**UNMEASURED, **options})


def all_posted(queue, step):
    for name in reversed(SHAPES):
        queue.gradient(name, step)[...] = 0
        queue.post(step, name)


def settled(queue, step):
    for name in SHAPES:
        for _ in queue.settle(name, step):
            pass


@on_ranks(1, 2)
def test_wrong_use_names_layer_and_step(ranks):
    queue = opened(ranks)
    queue.post(0, "d")
    with pytest.raises(RuntimeError, match=r"step 0 \| d \| posted twice"):
        queue.post(0, "d")
    with pytest.raises(RuntimeError, match=r"step 0 \| a \| settled before c, b, a was posted"):
        next(queue.settle("a", 0))
    with pytest.raises(RuntimeError, match=r"step 1 \| c, b, a \| not posted in step 0 yet .* finish\(0\)"):
        queue.post(1, "d")
    with pytest.raises(RuntimeError, match=r"step 0 \| no layer is called 'e' \| expected one of d, c, b, a"):
        queue.post(0, "e")
    queue.finish(0)
    with pytest.raises(RuntimeError, match=r"step 1 \| d \| posted while another sum .* k \+ 1 gradient buffers"):
        queue.gradient("d", 1)
    with pytest.raises(RuntimeError, match=r"step 0 \| d \| its gradient was posted and is in flight"):
        queue.gradient("d", 0)
    for use in (lambda: queue.gradient("e", 1), lambda: next(queue.settle("e", 0))):
        with pytest.raises(RuntimeError, match="no layer is called 'e'"):
            use()
    with pytest.raises(RuntimeError, match=r"step 1 \| d \| posted while another sum"):
        queue.post(1, "d")
    settled(queue, 0)
    all_posted(queue, 1)
    settled(queue, 1)
    with pytest.raises(RuntimeError, match=r"step 0 \| posted after step 1"):
        queue.post(0, "d")
    queue.close()
    for use in (lambda: queue.post(2, "d"), lambda: queue.gradient("d", 2), lambda: next(queue.settle("d", 2)),
                lambda: queue.finish(1), lambda: queue.norm(1), lambda: next(queue.as_completed([], 1)), queue.move):
        with pytest.raises(RuntimeError, match="the request queue is closed"):
            use()


@on_ranks(2)
def test_a_message_of_several_layers_is_not_waited_for_before_all_are_posted(ranks):
    """It would be an endless wait."""
    for options in ({"bucket": None}, {"bucket": 0}, {"bucket": 0, "order": "split"}):
        queue = opened(ranks, **options)
        queue.post(0, "c")
        with pytest.raises(RuntimeError, match=r"step 0 \| c \| settled before .*d.* was posted"):
            next(queue.settle("c", 0))
        queue.finish(0)
        settled(queue, 0)
        queue.close()


@on_ranks(2)
def test_with_a_delay_steps_follow_one_another(ranks):
    queue = opened(ranks, delay=1)
    all_posted(queue, 4)
    with pytest.raises(RuntimeError, match=r"step 6 \| posted after step 4 \| expected step 5"):
        queue.post(6, "d")
    all_posted(queue, 5)
    settled(queue, 5)
    queue.close()


@on_ranks(2)
def test_closed_before_all_sums_were_settled(ranks):
    queue = opened(ranks)
    all_posted(queue, 0)
    ranks.until(lambda: queue.move() or queue.quiet)
    for _ in queue.settle("d", 0):
        pass
    with pytest.raises(RuntimeError, match=r"step 0 \| c, b, a \| closed before these sums were settled"):
        queue.close()
    settled(queue, 0)
    queue.close()


@on_ranks(2)
def test_an_error_inside_is_not_hidden_and_nothing_calls_mpi_after_it(ranks):
    for progress in PROGRESS:
        queue = opened(ranks, progress=progress)
        all_posted(queue, 0)
        with pytest.raises(ZeroDivisionError), queue:
            settled(queue, 1 / 0)
        kernels.dense(np.ones((64, 512), np.float32), np.ones((512, 512), np.float32))


@on_ranks(2)
def test_by_need_layers_are_posted_in_order_of_backward(ranks):
    """Else ranks of different speed would pick different messages."""
    queue = opened(ranks, order="need")
    queue.post(0, "d")
    with pytest.raises(RuntimeError, match=r"step 0 \| b \| posted before c \| expected the order of backward"):
        queue.post(0, "b")
    assert queue.finish(0) == ["c", "b", "a"]
    settled(queue, 0)
    queue.close()


@on_ranks(2)
def test_what_was_not_posted_or_is_gone_is_not_waited_for(ranks):
    queue = opened(ranks)
    layers = list(queue.layers.values())
    for use in (lambda: queue.norm(0), lambda: next(queue.as_completed(layers, 0))):
        with pytest.raises(RuntimeError, match=r"step 0 \| \w \| waited for, but the last step posted is None"):
            use()
    queue.post(0, "d")
    with pytest.raises(RuntimeError, match="waited for, but the last step posted is None"):
        next(queue.as_completed(layers, 0))
    queue.finish(0)
    settled(queue, 0)
    all_posted(queue, 1)
    with pytest.raises(RuntimeError, match="step 0 .* the last step posted is 1"):
        queue.norm(0)
    settled(queue, 1)
    queue.close()


@on_ranks(2)
def test_one_queue_at_a_time_for_the_same_memory(ranks):
    shared = parameters()
    first = mpilayer.GradientQueue(ranks, shared, **UNMEASURED)
    with pytest.raises(RuntimeError, match="another request queue of these parameters is open"):
        mpilayer.GradientQueue(ranks, shared, **UNMEASURED)
    first.close()
    with mpilayer.GradientQueue(ranks, shared, **UNMEASURED) as queue:
        assert right(ranks, run(ranks, queue, 2, 0), 2)


@on_ranks(2)
def test_whatever_ends_the_block_nothing_runs_on_and_memory_in_flight_lives_on(ranks):
    for progress in PROGRESS:
        threads = threading.active_count()
        for error, leave in ((ZeroDivisionError, lambda: 1 / 0), (RuntimeError, lambda: None)):
            queue = opened(ranks, progress=progress, delay=1)
            memory = weakref.ref(queue.slots[0].payload)
            all_posted(queue, 0)
            with pytest.raises(error), queue:
                leave()
            assert threading.active_count() == threads
            assert queue not in channel.running()
            assert not progress_ways._in_kernels
            with pytest.raises(RuntimeError, match="closed"):
                queue.post(1, "d")
            del queue
            gc.collect()
            assert memory() is not None


@on_ranks(1)
def test_a_gradient_elsewhere_leaves_the_queue_as_it_was(ranks):
    queue = opened(ranks)
    layer = queue.layers["d"]
    with pytest.raises(RuntimeError, match="not in the memory of this step"):
        queue.post(0, layer._replace(g=np.zeros(400, np.float32)))
    queue.post(0, layer)
    queue.finish(0)
    settled(queue, 0)
    queue.close()


@on_ranks(1)
def test_values_that_cannot_be(ranks):
    for options, message in [
        ({"delay": -1}, "delay -1 | expected a whole number"), ({"delay": 1.5}, "delay 1.5"),
        ({"delay": "auto"}, "delay 'auto'"), ({"bucket": "64k"}, "bucket '64k' | expected a number of bytes"),
        ({"chunk": 0}, "chunk 0"), ({"lanes": 0}, "lanes 0"), ({"wire": "topk", "top_share": 7}, "top_share 7"),
        ({"wire": "powersgd", "matrix_rank": 0}, "matrix_rank 0 | expected a positive whole number"),
        ({"wire": "bfloat16", "error_feedback": "yes"}, "error_feedback 'yes' | expected True, False"),
        ({"wire": "topk", "order": "split"}, "TopK does not go with order split"),
        ({"wire": "powersgd", "reduction": "ordered"}, "PowerSGD goes with reduction native"),
        ({"reduction": "nccl"}, "reduction nccl sums among GPUs"),
        ({"settings": Settings(), "wire": "topk"}, "settings and bucket, chunk, progress, wire | expected one or the"),
    ]:
        with pytest.raises(UserError) as found:
            mpilayer.GradientQueue(ranks, parameters(), **{**UNMEASURED, **options})
        assert str(found.value).startswith(message), found.value
        assert not channel.running()


@on_ranks(1)
def test_names_that_do_not_exist(ranks):
    for options, message in [({"wire": "zip"}, "wire 'zip' | expected one of float32, bfloat16"),
                             ({"reduction": "fast"}, "reduction 'fast' | expected one of auto, native, ordered"),
                             ({"progress": "magic"}, "progress 'magic' | expected one of auto, none, poll"),
                             ({"order": "random"}, "order 'random' | expected one of backward, need, split"),
                             ({"speed": 1}, "keyword argument 'speed' | expected one of"),
                             ({"top_share": 1}, "keyword argument 'top_share' | expected one of")]:
        with pytest.raises(UserError) as found:
            mpilayer.GradientQueue(ranks, parameters(), **options)
        assert str(found.value).startswith(message)


@on_ranks(1)
def test_two_layers_of_one_name(ranks):
    both = parameters()
    both.layers.append(both.layers[0])
    with pytest.raises(ValueError, match="two layers are called 'a'"):
        mpilayer.GradientQueue(ranks, both)


@on_ranks(1)
def test_a_gradient_elsewhere(ranks):
    queue = opened(ranks)
    layer = queue.layers["d"]._replace(g=np.zeros(400, np.float32))
    with pytest.raises(RuntimeError, match=r"step 0 \| d \| its gradient is not in the memory of this step"):
        queue.post(0, layer)


@on_ranks(1, 2)
def test_a_message_is_not_filled_again_before_all_of_its_layers_were_settled(ranks):
    """Layers that travel together: the sum of one that was not settled would be lost, or be that of another step."""
    for order in ("backward", "need"):
        together = {"bucket": None, "chunk": None, "progress": "poll"}
        with mpilayer.GradientQueue(ranks, parameters(), order=order, **together) as queue:
            names = list(queue.parameters)
            queue.finish(0)
            list(queue.settle(names[-1], up_to=0))
            with pytest.raises(RuntimeError, match=r"step 1 \| . \| .* expected it to be settled first"):
                queue.post(1, names[-1])
            for name in names:
                list(queue.settle(name, up_to=0))
            queue.finish(1)
            with pytest.raises(RuntimeError, match="step 0 .* the last step posted is 1"):
                queue.norm(0)
            for name in names:
                list(queue.settle(name, up_to=1))


@on_ranks(2)
def test_a_delay_that_one_rank_cannot_have_is_refused_on_all(ranks):
    with pytest.raises(AgreedError, match=r"^rank 1 \| delay -1 \| expected a whole number"):
        mpilayer.GradientQueue(ranks, parameters(), **UNMEASURED, delay=-ranks.rank)
    with pytest.MonkeyPatch.context() as patch:
        if ranks.rank == 1:
            patch.setattr(opening, "_available", lambda: 1000)
        with pytest.raises(AgreedError, match=r"^rank 1 \| delay 3 \| .* GiB for 4 gradient buffers"):
            mpilayer.GradientQueue(ranks, parameters(), **UNMEASURED, delay=3)


@on_ranks(1, 2)
def test_in_halves_a_layer_waits_for_all(ranks):
    with mpilayer.GradientQueue(ranks, parameters(), bucket=0, order="split", progress="poll", chunk=None) as queue:
        names = list(queue.parameters)
        queue.gradient(names[-1], 0)[...] = 0
        queue.post(0, names[-1])
        with pytest.raises(RuntimeError, match="settled before"):
            list(queue.settle(names[-1], up_to=0))
        for name in reversed(names[:-1]):
            queue.gradient(name, 0)[...] = 0
            queue.post(0, name)
        for name in names:
            list(queue.settle(name, up_to=0))
