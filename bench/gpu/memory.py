"""Part `memory`: what the bandwidth of memory bounds, next to PyTorch and to a copy."""

from typing import NamedTuple

from bench.gpu import device
from bench.memory import OPS, select
from bench.rows import compared

is_broken = device.is_broken
SECONDS = 0.02  # at least, for each row
COUNTED = 16  # images that the rooms' cases have


class Unit(NamedTuple):
    """An operation on one of its cases."""

    op: str
    case: tuple
    precision: str


def larger(case, times):
    """A case of so many times as many images, tokens or samples; parameters stay as many."""
    if getattr(case, "shape", None):
        return case._replace(shape=(times * case.shape[0], *case.shape[1:]))
    first = next((name for name in ("M", "N") if name in case._fields), None)
    return case._replace(**{first: times * getattr(case, first)}) if first else case


def units(options):
    """{name: unit}; with tf32 nothing is different here, and parameters are always float32."""
    times = max(1, options.batch // COUNTED)
    found = [Unit(op, larger(case, times), precision) for op, case in select(options.op)
             for precision in options.precisions
             if precision != "tf32" and (precision == "float32" or "update" not in op)]
    return {f"{unit.op} {unit.case.name} {unit.precision}": unit for unit in found}


def _theirs(unit):
    """{pass: {layout: function of the peer}}."""
    torch = device.torch()
    with torch.device("cuda"):
        return OPS[unit.op].torch(unit.case, getattr(torch, device.DTYPES[unit.precision]))


def measure(todo, options, found):
    """Yield (name, rows or exception)."""
    found |= device.peer_facts() | {"copy_gb_per_s": device.copy_bandwidth()}

    def rows(unit):
        mine = OPS[unit.op].ours(unit.case, device.use(unit.precision))
        theirs = device.peers(lambda: _theirs(unit), mine)
        return [row(unit, which, moved, found, *device.timed({"ours": function, **theirs[which]}, options,
                                                             seconds=SECONDS))
                for which, (moved, function) in mine.items()]

    yield from device.each(todo, rows)


def row(unit, which, moved, found, mine, theirs):
    """What is known of one pass; METRICS.md has the formulas."""
    speed = moved / mine / 1e9
    return {"op": unit.op, "case": unit.case.name, "pass": which, "precision": unit.precision, "bytes": moved,
            **compared(mine, theirs), "gb_per_s": speed, "copy_share": speed / found["copy_gb_per_s"]}
