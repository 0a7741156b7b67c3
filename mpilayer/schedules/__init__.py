"""When a gradient is summed and when it is applied: one file for each schedule.

A schedule has step(t, batch), which runs training step t, and drain(), after which nothing is in flight.
"""

from mpilayer.schedules.adaptive import Adaptive
from mpilayer.schedules.delayed import Delayed
from mpilayer.schedules.layerwise import Layerwise
from mpilayer.schedules.oneshot import OneShot
from mpilayer.schedules.planned import Planned
from mpilayer.schedules.warmup import Warmup

SCHEDULES = {"oneshot": OneShot, "layerwise": Layerwise, "planned": Planned, "delayed": Delayed}


def schedule(net, queue, optimizer, options):
    """The schedule that the options ask for."""
    kind = SCHEDULES[options.schedule]
    if options.delay == "auto":
        kind = Adaptive
    elif options.delay_warmup:
        kind = Warmup
    return kind(net, queue, optimizer, options)
