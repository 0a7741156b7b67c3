"""The Prediction of a training step by a schedule."""

from typing import NamedTuple

from mpilayer.model.programs import PROGRAMS
from mpilayer.model.simulation import Simulation

MEASURED = 6  # periods that count, after those in which the pipeline fills
FILLING = 8  # steps for each of delay, until waiting shows what the link cannot carry
SEEN = 8  # ranks at most that are simulated one by one


class Prediction(NamedTuple):
    """Of a step: seconds in all, waiting among them, and the order in which its messages go out."""

    seconds: float
    exposed: float
    order: list


def predict(schedule, work, wire, *, delay=0, period=1, factors=((),)):
    """The Prediction of a step by a schedule, a key of PROGRAMS: the mean over some steps of the slowest rank.

    factors   for each rank that is simulated, how many times as long its steps compute, in turn; () for once
    """
    program = PROGRAMS[schedule](work, delay, period)
    filling = period * (2 + FILLING * delay)
    count = filling + MEASURED * period
    simulation = Simulation([program.steps(count, each) for each in factors], wire, program.in_order)
    slowest = max(simulation.run(), key=lambda rank: rank.ends[-1][0])
    begin, end = slowest.ends[filling - 1], slowest.ends[-1]
    seconds, exposed = ((after - before) / (count - filling) for before, after in zip(begin, end, strict=True))
    order = [key[1] for key in simulation.started if key[0] == filling + period - 1]
    return Prediction(seconds, exposed, order)


def spread(ranks, slow, jitter, steps, rng):
    """`factors` of some ranks that stand for all: one computes `slow` times as long, each step `jitter` more or less.

    jitter   standard deviation of the times of a step, as a share of it
    """
    some = min(ranks, SEEN) if jitter or slow != 1 else 1
    drawn = 1 + jitter * rng.standard_normal((some, -(-ranks // some), steps)).max(1) if jitter else None
    factors = [[1.0] * steps for _ in range(some)] if drawn is None else drawn.clip(0.1).tolist()
    factors[0] = [slow * factor for factor in factors[0]]
    return factors
