"""When gradients are exchanged and when they are applied: one file for each kind of schedule.

A schedule has step(t, batch), which runs training step t, and drain(); base.py says what else it tells of itself.
"""

from mpilayer.schedules.adaptive import Adaptive
from mpilayer.schedules.delayed import Delayed
from mpilayer.schedules.gossip import Gossip
from mpilayer.schedules.layerwise import Layerwise
from mpilayer.schedules.local import DiLoCo, Elastic, LocalSGD
from mpilayer.schedules.oneshot import OneShot
from mpilayer.schedules.partial import Partial
from mpilayer.schedules.planned import Planned
from mpilayer.schedules.ps import ParameterServer
from mpilayer.schedules.rma import OneSided
from mpilayer.schedules.split import Split
from mpilayer.schedules.warmup import Warmup

SCHEDULES = {"oneshot": OneShot, "layerwise": Layerwise, "planned": Planned, "split": Split, "delayed": Delayed,
             "partial": Partial, "local-sgd": LocalSGD, "diloco": DiLoCo, "elastic": Elastic, "gossip": Gossip,
             "ps": ParameterServer, "rma": OneSided}


def schedule(net, traffic, optimizer, options):
    """The schedule that the options ask for."""
    kind = SCHEDULES[options.schedule]
    if kind is Delayed:
        kind = Adaptive if options.delay == "auto" else Warmup if options.delay_warmup else Delayed
    return kind(net, traffic, optimizer, options)
