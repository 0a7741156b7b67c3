"""Random calls of the front door: each does what it says or raises what it documents, and nobody waits for ever."""

import random

import numpy as np

import mpilayer
from mpilayer.base.errors import HangError, UserError
from mpilayer.schedules import SCHEDULES
from tests.ranks import on_ranks

SEED, SESSIONS, CALLS = 5, 60, 25
ODD = [None, -1, 0, 1, 2, 3, 10**9, -10**30, 0.5, float("nan"), float("inf"), "", "a", "é", "none", "auto", True, [],
       {}, (1, 2), b"x", object, np.float64(1), np.arange(3)]
NAMES = ["a", "b", "c", "d", "", None, 3, "conv"]
SHAPES = [(4,), (3, 5), (1,), (2, 2, 2), (70,)]
DOCUMENTED = (UserError, RuntimeError, TypeError, ValueError)


def parameters(rng):
    """Named arrays, sometimes what is none."""
    names = rng.sample(["a", "b", "c"], rng.randint(1, 3))
    arrays = {name: np.full(rng.choice(SHAPES), 1, np.float32) for name in names}
    if rng.random() < 0.1:
        arrays[rng.choice(NAMES)] = rng.choice([*ODD, np.ones(3), np.ones(0, np.float32), np.ones(2, np.float16)])
    return mpilayer.Parameters(arrays)


def settings(rng):
    """Keyword arguments of a queue, mostly good ones."""
    found = {"progress": rng.choice(["none", "poll", "kernel", "thread"]), "bucket": rng.choice([0, 64, None]),
             "chunk": rng.choice([None, 64, 1000]), "delay": rng.choice([0, 0, 1, 2]),
             "order": rng.choice(["backward", "need", "split"]), "wire": rng.choice(["float32", "bfloat16", "topk"]),
             "reduction": rng.choice(["native", "ordered", "levels"]), "average": rng.choice([True, False])}
    if rng.random() < 0.3:
        found[rng.choice([*found, "lanes", "top_share", "colour"])] = rng.choice(ODD)
    return found


def attempt(action):
    """The error that action() raised, one of those that are documented, with a message; None if it raised none."""
    try:
        action()
    except HangError:
        raise
    except DOCUMENTED as error:
        if not str(error):
            raise
        return error
    return None


def session(ranks, rng):
    """A queue, and random calls; the same on all ranks, as those that must be made together are."""
    queue = mpilayer.GradientQueue(ranks, parameters(rng), **settings(rng))
    try:
        for _ in range(rng.randint(1, CALLS)):
            attempt(lambda: call(queue, rng))
        queue.close()
    finally:
        queue.abandon()


def call(queue, rng):
    """One, most often what should come next."""
    names = list(queue.parameters)
    step = rng.choice([0, 1, 2, 3]) if rng.random() < 0.9 else rng.choice(ODD)
    name = rng.choice(names) if rng.random() < 0.9 else rng.choice(NAMES)
    what = rng.choice(["post", "round", "round", "settle", "gradient", "finish", "norm", "open", "close"])
    if what == "round":
        first = -1 if queue.engine is None or queue.posting.step is None else queue.posting.step
        for each in reversed(names):
            queue.gradient(each, first + 1)[...] = 1
            queue.post(first + 1, each)
        for each in names:
            for _, total in queue.settle(each, up_to=first + 1):
                assert np.isfinite(total).all()
    elif what == "settle":
        list(queue.settle(name, step))
    elif what == "gradient":
        queue.gradient(name, step)
    elif what in ("finish", "norm"):
        getattr(queue, what)(step)
    elif what == "open":
        queue.open(delay=rng.choice([0, 1, -1, None, "x"]), order=rng.choice(["need", "backward", "other"]))
    elif what == "close":
        queue.close()
    else:
        queue.post(step, name)


def used(made):
    """Close Data, or a schedule."""
    close = getattr(made, "close", None) or made.channel.abandon
    close()


@on_ranks(1, 2, seconds=120)
def test_random_calls_of_the_request_queue(ranks):
    rng, made = random.Random(SEED), 0
    ranks.timeout = 10
    for number in range(SESSIONS):
        ranks.where = f"session {number} of seed {SEED}"
        made += attempt(lambda: session(ranks, rng)) is None
        rng.seed(SEED * 1000 + number)  # a call may have been refused before it drew
    ranks.timeout = 600
    assert SESSIONS / 10 < made < SESSIONS, "some of each"


@on_ranks(1, 2)
def test_random_arguments_of_schedules_optimizers_and_data(ranks):
    rng = random.Random(SEED)
    for number in range(300):
        ranks.where = f"call {number} of seed {SEED}"
        rng.seed(SEED * 1000 + number)
        arrays = mpilayer.Parameters({"w": np.ones(3, np.float32)})
        options = {rng.choice(["delay", "period", "staleness", "servers", "quorum", "wire", "momentum", "progress",
                               "apply", "colour"]): rng.choice(ODD) for _ in range(rng.randint(0, 2))}
        optimizer = mpilayer.MomentumSGD(arrays, 0.1)
        calls = (lambda: mpilayer.make_schedule(rng.choice([*SCHEDULES, "", "x:y", None, 3]), arrays, ranks, optimizer,  # noqa: B023
                                                **{"progress": "poll", "bucket": 0, "chunk": None} | options),  # noqa: B023
                 lambda: mpilayer.open_data(rng.choice(["digits", "synthetic", *ODD]), ranks=ranks,
                                            **{rng.choice(["seed", "shape", "augment", "validation", "colour"]):
                                               rng.choice(ODD)}))
        attempt(lambda: used(rng.choice(calls)()))  # noqa: B023
