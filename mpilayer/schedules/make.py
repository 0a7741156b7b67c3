"""A schedule from its name and keyword arguments, with what it sends with."""

from kernels import gpu
from mpilayer.base.cli import Choice
from mpilayer.base.errors import UserError
from mpilayer.compression import COMPRESSORS
from mpilayer.exchange import probe
from mpilayer.exchange.channel import silent
from mpilayer.exchange.gradient_queue import GradientQueue
from mpilayer.exchange.settings import AUTO, settings_of
from mpilayer.schedules import SCHEDULES
from mpilayer.schedules.base import Schedule


def own(kind):
    """A schedule of the user's. Raises UserError if it is none."""
    if not (isinstance(kind, type) and issubclass(kind, Schedule)):
        raise UserError(f"--schedule: {kind!r} is no schedule | expected a subclass of mpilayer.Schedule")
    return kind


CHOICE = Choice("schedule", SCHEDULES, "layerwise", "when gradients are summed and applied", own)


def words(text):
    """NAME[:DELAY][+OPTION[=VALUE]]... as words of the command line: --schedule NAME --delay DELAY --OPTION VALUE."""
    name, *flags = text.split("+")
    head, _, delay = name.partition(":")
    if head not in SCHEDULES:
        head, delay = name, ""
    return ["--schedule", head, *(["--delay", delay] if delay else []),
            *(word for flag in flags for word in f"--{flag}".split("=", 1))]


def make_schedule(name, net, ranks, optimizer, *, settings=None, trace=None, say=silent, **given):
    """A Schedule on a net, ready for step(t, batch). Its `channel` is what it sends with; close that at the end.

    name        a key of SCHEDULES, or MODULE:CLASS or FILE.py:CLASS for one of your own
    net         nets.Net, or what has the same layers, memory and generators
    ranks       Ranks
    optimizer   an optimizer of the net's layers, such as MomentumSGD(net, 0.01)
    settings    Settings, in place of the keyword arguments of GradientQueue
    trace       mpilayer.base.tracing.Trace, which counts where the time goes
    say         a function that is called with a line of text when something was decided; default: nothing is printed
    given       keyword arguments of the schedule, such as delay=1, and of GradientQueue, such as wire="bfloat16"

    All ranks call this together. Raises UserError for an unknown name, and for options that do not go together.
    """
    kind = CHOICE.load(name)
    own_options = {option.name: given.pop(option.name, option.default) for option in kind.options}
    kind.check(ranks.size, **own_options)
    settings = settings or probe.choose(ranks, settings_of(AUTO | given), net.weights.nbytes, say)
    if settings.wire not in (kind.wires or COMPRESSORS):
        raise UserError(f"wire {settings.wire} does not go with {name}: {kind.wires_because}"
                        f" | try: {' or '.join(kind.wires)}")
    channel = _channel(kind, net, ranks, settings, trace, say)
    optimizer.attach(channel.trace, getattr(channel, "norm", None))
    return kind(net, channel, optimizer, **own_options)


def _channel(kind, net, ranks, settings, trace, say):
    """What a schedule sends with, not yet open."""
    if kind.channel is not GradientQueue:
        return kind.channel(ranks, settings, trace, say)
    return queue_class(net)(ranks, net, delay=None, settings=settings, trace=trace, say=say)


def queue_class(net):
    """GradientQueue, or that of a net on a GPU."""
    if not gpu.is_array(net.weights):
        return GradientQueue
    from mpilayer.gpu.device_queue import DeviceGradientQueue

    return DeviceGradientQueue
