"""When a gradient is summed and when it is applied: one file for each schedule.

A schedule has step(t, batch), which runs training step t, and drain(), after which nothing is in flight.
"""

from mpilayer.schedules.delayed import Delayed
from mpilayer.schedules.layerwise import Layerwise
from mpilayer.schedules.oneshot import OneShot

SCHEDULES = {"oneshot": OneShot, "layerwise": Layerwise, "delayed": Delayed}
