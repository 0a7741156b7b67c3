"""Options that say `auto`: what is chosen at start-up, by measurement where that is possible."""

from kernels import gpu
from mpilayer.base.errors import UserError
from mpilayer.compression import COMPRESSORS
from mpilayer.exchange.opening import REMEDY
from mpilayer.exchange.probe import ENOUGH, SIZES, Probe, bears
from mpilayer.exchange.settings import AUTO, settings_of
from mpilayer.mpi import levels
from mpilayer.mpi.agreement import compare

GAIN = 0.97  # what is less simple must bring this much to be preferred


def typical(largest, link):
    """Bytes of a sum that takes long enough to be measured, but not more than `largest`."""
    return min(largest, max(SIZES[0], int(ENOUGH / link.per_byte)))


def best(overlaps):
    """The simplest way of progress of which none is clearly faster."""
    chosen, *others = overlaps
    for name in others:
        if overlaps[name].total < GAIN * overlaps[chosen].total:
            chosen = name
    return chosen


def in_words(count):
    """Bytes in words."""
    if count is None:
        return "any size"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def _unmeasured(ranks, settings, weights):
    """With what needs no measurement in place of "auto": one message, poll, sums in memory that all ranks share."""
    plain = {"progress": "poll", "bucket": None, "chunk": None, "reduction": "native"}
    if "reduction" in settings.auto and ranks.node.size == ranks.size and _may_share(ranks, settings, weights):
        plain["reduction"] = "levels"
    return settings._replace(**{name: plain[name] for name in settings.auto})


def _sums_here(settings, weights):
    """Whether it is MPI or this library that sums, in this computer's memory."""
    return not gpu.is_array(weights) and not COMPRESSORS[settings.wire].own_sums


def _may_share(ranks, settings, weights):
    """Whether the ranks of a node can sum gradients in common memory; all ranks call this together."""
    return _sums_here(settings, weights) and ranks.most(ranks.node.size) > 1 and not levels.missing(ranks)


def _safe(ranks, settings, say):
    """With "poll" where MPI does not bear the way of progress that was asked for."""
    if bears(ranks, settings.progress):
        return settings
    say(f"progress poll instead of {settings.progress}: this MPI must not be called by other threads")
    return settings._replace(progress="poll")


def choose(ranks, settings, weights, say):
    """The Settings for gradients of these weights, measured where they say "auto"; all ranks call this together."""
    auto, settings = settings.auto, _unmeasured(ranks, settings, weights)
    if ranks.size > 1:
        if not ranks.any(ranks.crowded):  # on any machine: all ranks measure, or none
            settings = _measured(ranks, settings, auto, weights, say)
        elif auto - {"reduction"}:
            say(f"more ranks than cores: {', '.join(sorted(auto - {'reduction'}))} not measured; messages move between"
                " layers")
    return _safe(ranks, settings, say)


def _fastest(ranks, settings, weights, say):
    """The Settings whose sums are fastest: as MPI makes them, in rank order, or within each node first."""
    size, times = min(weights.nbytes, SIZES[2]), {}
    for name in ("native", "ordered", "levels") if _may_share(ranks, settings, weights) else ("native", "ordered"):
        probe = Probe(ranks, settings._replace(reduction=name))
        times[name] = ranks.bcast(probe.seconds(size))
        probe.close()
    least = min(times, key=times.get)
    chosen = least if times[least] < GAIN * times["native"] else "native"
    told = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in times.items())
    say(f"reduction {chosen}: a sum of {in_words(size)} takes, in ms: {told}")
    return settings._replace(reduction=chosen)


def _measured(ranks, settings, auto, weights, say):
    """With the link, and what is "auto", as measured on more ranks than one."""
    largest = weights.nbytes
    if "reduction" in auto and settings.reduction == "native" and _sums_here(settings, weights):
        settings = _fastest(ranks, settings, weights, say)
    probe = Probe(ranks, settings)
    link = ranks.bcast(probe.link(largest))
    settings = settings._replace(link=link, **{name: getattr(link, name) for name in auto - {"progress", "reduction"}})
    say(f"messages take {link} of float32; fused up to {in_words(settings.bucket)}, split from"
        f" {in_words(settings.chunk)}")
    if "progress" in auto:
        sent = typical(largest, link)
        alone, compute, overlaps = probe.overlap(sent, link.chunk)
        chosen = best(overlaps)
        core = max(0.0, overlaps[chosen].post + overlaps[chosen].compute - compute) / sent
        settings = settings._replace(progress=chosen, link=link._replace(core=core))
        times = ", ".join(f"{name} {1e3 * each.total:.0f}" for name, each in overlaps.items())
        say(f"progress {settings.progress}: {1e3 * alone:.0f} ms of communication and {1e3 * compute:.0f} ms of"
            f" computing take together, in ms: {times}")
    probe.close()
    return settings


def resolved(ranks, settings, given, weights, say):
    """The Settings, or those of keyword arguments, measured where they say "auto" for gradients of these weights."""
    if settings and given:
        raise UserError(f"settings and {', '.join(given)} | expected one or the other | try: settings._replace(...)")
    settings = settings or settings_of(AUTO | given)
    compare(ranks, settings._replace(link=None)._asdict(), REMEDY)  # what is measured must be the same on all ranks
    return choose(ranks, settings, weights, say) if settings.auto else _safe(ranks, settings, say)
