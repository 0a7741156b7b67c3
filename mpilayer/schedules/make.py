"""A schedule from its name and keyword arguments, with what it sends with."""

from collections.abc import Callable

from kernels import gpu
from mpilayer.base.cli import Choice
from mpilayer.base.errors import UserError
from mpilayer.base.tracing import Trace, Watched
from mpilayer.compression import COMPRESSORS
from mpilayer.exchange import automatic
from mpilayer.exchange.channel import silent
from mpilayer.exchange.gradient_queue import GradientQueue
from mpilayer.exchange.settings import GIVEN, Settings, one_of
from mpilayer.mpi.ranks import Ranks
from mpilayer.schedules import SCHEDULES
from mpilayer.schedules.base import OWN_PACE, Schedule


def own(kind):
    """A schedule of the user's. Raises UserError if it is none."""
    if not (isinstance(kind, type) and issubclass(kind, Schedule)):
        raise UserError(f"{kind!r} is no schedule | expected a subclass of mpilayer.Schedule")
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


def make_schedule(name: str | type[Schedule], net, ranks: Ranks, optimizer, *, settings: Settings | None = None,
                  trace: Trace | None = None, say: Callable = silent, **given) -> Schedule:
    """A Schedule on a net, ready for step(t, batch). Its `channel` is what it sends with; close that at the end.

    name        a key of SCHEDULES, MODULE:CLASS or FILE.py:CLASS for one of your own, or its class
    net         nets.Net, or what has the same layers, memory and generators
    ranks       Ranks
    optimizer   an optimizer of the net's layers, such as MomentumSGD(net, 0.01)
    settings    Settings, in place of the keyword arguments of GradientQueue
    trace       mpilayer.base.tracing.Trace, which counts where the time goes; default: a new one
    say         a function that is called with a line of text when something was decided; default: nothing is printed
    given       keyword arguments of the schedule, such as delay=1, and of GradientQueue, such as wire="bfloat16"

    All ranks call this together; those that only serve (`ps` with `servers`) make no steps, and drain when the others
    do. Raises UserError for an unknown name, and for options that do not go together.
    """
    kind = CHOICE.load(name) if isinstance(name, str) else own(name)
    chosen = _own_options(kind, given, settings)
    kind.check(ranks.size, **chosen)
    check_fit(kind, name, optimizer, optimizer, settings.wire if settings else given.get("wire", "float32"))
    settings = automatic.resolved(ranks, settings, given, net.weights, say)
    trace = trace or compute_trace(net)
    channel = _channel(kind, net, ranks, settings, trace, say)
    optimizer.attach(trace, getattr(channel, "norm", None))
    try:
        watched = _OwnPace if _at_own_pace(kind) else Watched
        return kind(watched(net, trace), channel, optimizer, **chosen)
    except BaseException:
        channel.abandon()
        raise


def _own_options(kind, given, settings):
    """The schedule's keyword arguments, taken out of those given. Raises UserError for others that nobody knows."""
    options = {option.name: option.checked(given.pop(option.name, option.default)) for option in kind.options}
    if given and not settings:
        compressor = COMPRESSORS[one_of("wire", given.get("wire", "float32"), COMPRESSORS)]
        known = {*options, *GIVEN, *(option.name for option in compressor.options)}
        for name in given:
            one_of("keyword argument", name, sorted(known))
    return options


def check_fit(kind, name, optimizer, values, wire, spell=str):
    """Raise UserError if a schedule cannot do what an optimizer's options or the form of gradients ask for.

    values   has the options' values as attributes          spell   how an option is written: on a command line, a flag
    """
    schedule = spell("schedule")
    for option, why in kind.refuses.items():
        if getattr(values, option, None):
            raise UserError(f"{spell(option)} does not go with {schedule} {name}: {why}")
    for option in optimizer.options:
        if option.late and getattr(values, option.name) and not kind.late:
            able = " or ".join(name for name, other in CHOICE.parts.items() if other.late)
            raise UserError(f"{spell(option.name)} goes with {schedule} {able}: nothing else is late")
    if _at_own_pace(kind) and getattr(values, "batch_statistics", "local") == "all":
        raise UserError(f"{spell('batch_statistics')} all does not go with {schedule} {name}: {OWN_PACE}"
                        f" | try: {spell('batch_statistics')} local")
    if kind.wires and wire not in kind.wires:
        raise UserError(f"{spell('wire')} {wire} does not go with {schedule} {name}: {kind.wires_because}"
                        f" | try: {spell('wire')} {' or '.join(kind.wires)}")


def _at_own_pace(kind):
    return kind.own_pace or kind.asynchronous


class _OwnPace(Watched):
    """A net that is watched, in a schedule whose ranks must not wait for each other's samples: they would for ever."""

    def forward(self, batch):
        """As the net's. Raises UserError for statistics over all ranks."""
        if getattr(batch, "total", None):
            raise UserError(f"total | expected None: {OWN_PACE} | try: another schedule")
        return super().forward(batch)


def _channel(kind, net, ranks, settings, trace, say):
    """What a schedule sends with, not yet open."""
    if kind.channel is not GradientQueue:
        return kind.channel(ranks, settings, trace, say)
    return queue_class(net)(ranks, net, delay=None, settings=settings, trace=trace, say=say)


def compute_trace(net):
    """A Trace of where the net computes."""
    if not gpu.is_array(net.weights):
        return Trace()
    from mpilayer.gpu.trace import GpuTrace

    return GpuTrace()


def queue_class(net):
    """GradientQueue, or that of a net on a GPU."""
    if not gpu.is_array(net.weights):
        return GradientQueue
    from mpilayer.gpu.device_queue import DeviceGradientQueue

    return DeviceGradientQueue
