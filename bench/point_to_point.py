"""A simulated training step as messages from rank to rank, for other simulators: SimGrid's SMPI, and GOAL."""

import math
from typing import NamedTuple

from mpilayer.model.simulation import End, Message, Simulation, Wait

FLOPS = 1e9  # a second, of the hosts in `platform`
TOKEN = 1  # bytes of what a rank and its mover tell each other, on a link that takes no time


class Exchange(NamedTuple):
    """Of a rank in a round of a sum: bytes sent to one rank, as many received from another."""

    to: int
    source: int
    size: int


def ring(size, rank, ranks, part):
    """The Exchanges of a sum of so many bytes around a ring; of half a sum, the first half or the second."""
    each = math.ceil(size / ranks)
    return [Exchange((rank + 1) % ranks, (rank - 1) % ranks, each)] * round(2 * part * (ranks - 1))


def halving(size, rank, ranks, part):
    """The same by recursive halving, then doubling; of powers of two."""
    down = [(1 << power, math.ceil(size * (1 << power) / ranks)) for power in reversed(range(ranks.bit_length() - 1))]
    both = [*down, *reversed(down)]
    return [Exchange(rank ^ far, rank ^ far, each) for far, each in both[:round(len(both) * part)]]


SUMS = {"ring": ring, "halving and doubling": halving}  # by the names of mpilayer/model/networks.py


class Record(NamedTuple):
    """What the ranks do in some steps by a schedule, and what the link carries.

    actions   for the first rank, and for each of the others: seconds of computing, Message (posted) and Wait, in turn;
              at the end all is waited for
    order     the Messages as the link carries them, one after the other; those that follow another are among them
    seconds   until all has arrived, in the simulation
    """

    actions: list
    order: list
    seconds: float


def recorded(program, steps, wire, slow):
    """The Record of a Program on a Wire; the first rank computes `slow` times as long as the others."""
    both = [[action for action in program.steps(steps, [factor]) if not isinstance(action, End)]
            for factor in (slow, 1.0)]
    posted = [action for action in both[0] if isinstance(action, Message)]
    named = {each.key: each for message in posted for each in (message, message.then) if each}
    awaited = {action.key for action in both[0] if isinstance(action, Wait)}
    both = [[*actions, *(Wait(key) for key in named if key not in awaited)] for actions in both]
    simulation = Simulation([[*actions, End()] for actions in both], wire, program.in_order)
    seconds = max(rank.ends[-1][0] for rank in simulation.run())
    return Record(both, [named[key] for key in simulation.started], seconds)


def _exchanges(message, algorithm, rank, ranks):
    return SUMS[algorithm](message.size / message.part, rank, ranks, message.part)


def smpi(record, algorithm, ranks):
    """{file name: lines}: a time-independent trace for each rank, and for its mover, number `ranks` + rank, which makes
    the sums in the order of the link while the rank computes.
    """
    tag = {message.key: number for number, message in enumerate(record.order)}
    posted = {action.key for action in record.actions[0] if isinstance(action, Message)}
    traces = {}
    for rank in range(ranks):
        mover, own, moved = ranks + rank, [], []
        for action in record.actions[min(rank, 1)]:
            own.append(f"send {mover} {tag[action.key]} {TOKEN}" if isinstance(action, Message) else
                       f"recv {mover} {tag[action.key]} {TOKEN}" if isinstance(action, Wait) else
                       f"compute {FLOPS * action:.0f}")
        for message in record.order:
            moved += [f"recv {rank} {tag[message.key]} {TOKEN}"] * (message.key in posted)
            for each in _exchanges(message, algorithm, rank, ranks):
                moved += [f"irecv {ranks + each.source} 0 {each.size}", f"isend {ranks + each.to} 0 {each.size}",
                          "waitall"]
            moved.append(f"send {rank} {tag[message.key]} {TOKEN}")
        for number, name, actions in ((rank, "rank", own), (mover, "mover", moved)):
            traces[f"{name}{rank}.txt"] = [f"{number} {action}" for action in ("init", *actions, "finalize")]
    return traces


def platform(network, ranks):
    """SimGrid's description of as many hosts, each with a link of its own to a switch that takes no time."""
    return f"""<?xml version="1.0"?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <cluster id="cluster" prefix="host" suffix="" radical="0-{ranks - 1}" core="2" speed="{FLOPS}f"
           bw="{network.rate}bps" lat="{network.latency / 2}s" loopback_bw="1e15Bps" loopback_lat="0s"/>
</platform>
"""


def goal(record, algorithm, ranks):
    """Lines of GOAL (LogGOPSim): what each rank does, in nanoseconds and bytes, and what must have happened before.

    `c5` is what is computed fifth, `m3s0` what message 3 sends in its first round, `m3r0` what it receives then.
    """
    lines = [f"num_ranks {ranks}"]
    for rank in range(ranks):
        lines += ["", f"rank {rank} {{", *_of_rank(record, algorithm, rank, ranks), "}"]
    return lines


def _of_rank(record, algorithm, rank, ranks):
    tag = {message.key: number for number, message in enumerate(record.order)}
    rounds = {message.key: _exchanges(message, algorithm, rank, ranks) for message in record.order}
    released, before, count = {}, [], 0
    for action in record.actions[min(rank, 1)]:
        if isinstance(action, Message):
            released[action.key] = f"c{count}"
        elif isinstance(action, Wait):
            last = len(rounds[action.key]) - 1
            before += [f"m{tag[action.key]}{way}{last}" for way in "sr"]
        else:
            before, count = [*before, f"c{count}"] if count else before, count + 1
            yield from _after(f"c{count}", f"calc {1e9 * action:.0f} cpu 0", before)
            before = []
    moved = []
    for message in record.order:
        before = [*moved, *filter(None, [released.get(message.key)])]
        for number, each in enumerate(rounds[message.key]):
            sent, received = (f"m{tag[message.key]}{way}{number}" for way in "sr")
            yield from _after(sent, f"send {each.size}b to {each.to} tag {tag[message.key]} cpu 1", before)
            yield from _after(received, f"recv {each.size}b from {each.source} tag {tag[message.key]} cpu 1", before)
            before = moved = [sent, received]


def _after(label, what, before):
    yield f"{label}: {what}"
    yield from (f"{label} requires {other}" for other in before)
