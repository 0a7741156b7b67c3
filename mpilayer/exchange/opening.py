"""What all ranks must have in common when they open a request queue."""

from pathlib import Path

from mpilayer.base.errors import UserError
from mpilayer.exchange.channel import running
from mpilayer.mpi.agreement import compare

REMEDY = "the same parameters, in the same order, and the same arguments on every rank"


def _available():
    """Bytes of memory that this machine could give; None where nobody says so."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _check_delay(ranks, size, delay):
    """Raise UserError for what is no number of steps, or if the gradient buffers, of so many bytes each, cannot fit:
    the system would kill the ranks.
    """
    if not isinstance(delay, int) or delay < 0:
        raise UserError(f"delay {delay!r} | expected a whole number of steps, not negative")
    available, needed = _available(), size * (delay + 1) * ranks.neighbours
    if available is not None and delay and needed > available:
        raise UserError(f"delay {delay} | {needed / 2**30:,.1f} GiB for {delay + 1} gradient buffers of each of"
                        f" {ranks.neighbours} ranks on this machine, {available / 2**30:,.1f} available"
                        " | try: a smaller delay, or fewer ranks on a machine")


def check_alone(queue):
    """Raise RuntimeError if another open queue sums in the same gradient buffers."""
    if any(getattr(other, "parameters", None) is not None and other is not queue
           and other.parameters.weights is queue.parameters.weights for other in running()):
        raise RuntimeError("another request queue of these parameters is open | expected one at a time: both would"
                           " write into the same gradient buffers | try: close() the other one")


def check(ranks, layers, settings, **more):
    """A meeting of all ranks. Raises AgreedError, on all of them, for a delay that is no number of steps or for which
    the memory of any does not suffice, and unless layers, settings and what is said `more` are the same.
    """
    size = sum(layer.w.nbytes for layer in layers)
    ranks.agree(lambda: _check_delay(ranks, size, more["delay"]))
    sizes = {f"layer {number}": f"{layer.name} of {layer.w.size} numbers" for number, layer in enumerate(layers)}
    compare(ranks, {**more, "layers": len(layers), **settings._replace(link=None)._asdict(), **sizes}, REMEDY)
