"""What all ranks must have in common when they open a request queue."""

from mpilayer.base.errors import UserError
from mpilayer.mpi.agreement import compare

REMEDY = "the same parameters, in the same order, and the same arguments on every rank"


def check(ranks, layers, settings, **more):
    """A meeting of all ranks. Raises UserError for a delay that is no number of steps; AgreedError, on all of them,
    unless layers, settings and what is said `more` are the same.
    """
    if not isinstance(more["delay"], int) or more["delay"] < 0:
        raise UserError(f"delay {more['delay']!r} | expected a whole number of steps, not negative")
    sizes = {f"layer {number}": f"{layer.name} of {layer.w.size} numbers" for number, layer in enumerate(layers)}
    compare(ranks, {**more, "layers": len(layers), **settings._replace(link=None)._asdict(), **sizes}, REMEDY)
