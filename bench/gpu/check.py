"""Part `check`: every pass of every case of every room against NumPy in float64, in several processes."""

from typing import NamedTuple

from bench.gpu.record import LONGEST
from bench.processes import spread
from kernels import check
from kernels.rooms import part, rooms

AT_ONCE = 8  # cases


class Unit(NamedTuple):
    """Some cases of a room."""

    room: str
    precision: str
    first: int

    @property
    def name(self):
        """In words."""
        return f"{self.room} {self.precision} from case {self.first}"


def _cases(room):
    return part(room, "cases").CASES


def units(options):
    """{name: unit}."""
    found = [Unit(room, precision, first) for room in rooms() if options.room in room
             for precision in options.precisions if precision != "tf32" or part(room, "check").BOUND.tf32
             for first in range(0, len(_cases(room)), AT_ONCE)]
    return {unit.name: unit for unit in found}


def rows(unit):
    """A row for each pass."""
    cases = _cases(unit.room)[unit.first:unit.first + AT_ONCE]
    return [{"room": unit.room, "case": case, "pass": part, "precision": unit.precision, "error": off, "bound": bound,
             "good": bool(off <= bound)}
            for case, part, off, bound in check.results(unit.room, check.cuda(unit.precision), cases)]


def measure(todo, options, found):
    """Yield (name, rows or exception) as they come. A process does one unit: what breaks its GPU breaks no other."""
    units = {name: (unit,) for name, unit in todo.items()}
    for name, result in spread(rows, units, seconds=LONGEST, fresh=True):
        yield name, result if isinstance(result, Exception) else _judged(result)


class OffError(ArithmeticError):
    """Some of the rows are off; it names the worst."""

    def __init__(self, rows, wrong):
        self.rows, worst = rows, max(wrong, key=lambda row: row["error"] / row["bound"])
        super().__init__(f"{len(wrong)} of {len(rows)} passes are off, worst {worst['case']}, {worst['pass']}:"
                         f" {worst['error']:.1e} where {worst['bound']:.1e} is allowed")


def _judged(found):
    """The rows, or an exception that has them."""
    wrong = [row for row in found if not row["good"]]
    return OffError(found, wrong) if wrong else found
