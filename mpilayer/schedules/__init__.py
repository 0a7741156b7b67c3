"""When gradients are exchanged and when they are applied: one file for each kind of schedule.

base.py says what a schedule tells of itself; make.py makes one from its name and keyword arguments.
"""

from mpilayer.schedules.auto import Auto
from mpilayer.schedules.delayed import Delayed
from mpilayer.schedules.gossip import Gossip
from mpilayer.schedules.layerwise import Layerwise
from mpilayer.schedules.local import DiLoCo, EagerDiLoCo, Elastic, LocalSGD
from mpilayer.schedules.oneshot import OneShot
from mpilayer.schedules.partial import Partial
from mpilayer.schedules.planned import Planned
from mpilayer.schedules.ps import ParameterServer
from mpilayer.schedules.rma import OneSided
from mpilayer.schedules.split import Split

SCHEDULES = {"oneshot": OneShot, "layerwise": Layerwise, "planned": Planned, "split": Split, "delayed": Delayed,
             "partial": Partial, "local-sgd": LocalSGD, "diloco": DiLoCo, "eager-diloco": EagerDiLoCo,
             "elastic": Elastic, "gossip": Gossip, "ps": ParameterServer, "rma": OneSided, "auto": Auto}
