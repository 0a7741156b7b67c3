"""A hang: what every rank was doing when nothing moved any more, and whom the others wait for."""

from typing import NamedTuple

from mpilayer.base.processes import state
from mpilayer.mpi.flight_recorder import Report

MOST = 10  # ranks that a message names
ALIVE = "has not come back"
WORDS = {"T": "is stopped, as by SIGSTOP", "t": "is stopped by a debugger", "Z": "has ended", "": "has ended"}
SILENT = "does not answer, though its host does: it is stopped, or gets no core"
OUT_OF_REACH = "cannot be reached over the network"


class Seen(NamedTuple):
    """What is known of a rank: its state in words; if known, seconds since it last moved, and its Report."""

    rank: int
    host: str
    state: str
    idle: float | None = None
    report: Report | None = None

    def __str__(self):
        host = f" ({self.host})" if self.host else ""
        if not self.report:
            return f"rank {self.rank}{host} {self.state}"
        last = self.report.records[-1:]
        told = f", last message {_message(last[0])}" if last else ""
        return f"rank {self.rank}{host} {self.state}; it has been in {self.report.place} for {self.idle:.0f} s{told}"


def _message(record):
    return f"{record.name} of step {record.step} ({record.state})"


def on_this_node(reports, now):
    """Each rank of this node as Seen, from its Report, at a moment of the monotonic clock."""
    return [Seen(each.rank, each.host, WORDS.get(state(each.pid), ALIVE), now - each.moved, each)
            for each in reports]


def _lacking(reports):
    """(a message that some ranks posted and others did not, those others), the oldest one; None if there is none."""
    keys = {each.rank: {record.key for record in each.records} for each in reports}
    opened = {record.key: record.number for each in reports for record in each.open if record.size}
    for key in sorted(opened, key=lambda key: (*key[:2], opened[key])):
        if without := [rank for rank, known in keys.items() if key not in known]:
            return key, without
    return None


def _listed(texts, more="more"):
    told = "; ".join(texts[:MOST])
    return f"{told}; and {len(texts) - MOST} {more}" if len(texts) > MOST else told


def _numbers(ranks):
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:MOST]))}" + (
        f" and {len(ranks) - MOST} more" if len(ranks) > MOST else "")


def waiting(seen):
    """Who waits for what, in words: a text for each thing that is waited for."""
    groups = {}
    for each in seen:
        if each.report and each.report.waiting:
            groups.setdefault((each.report.waiting, each.report.place), []).append(each.rank)
    return [f"{_numbers(ranks)} for {what} in {place}" for (what, place), ranks in groups.items()]


def culprits(seen):
    """Whom the others wait for, in words: a text for each rank."""
    missing = [each for each in seen if each.state != ALIVE] or [
        each for each in seen if not (each.report and each.report.waiting)]
    if missing:
        return [str(each) for each in missing]
    if found := _lacking([each.report for each in seen]):
        (_, step, name), ranks = found
        return [f"{each}, has not posted {name} of step {step}" for each in seen if each.rank in ranks]
    return ["no rank is missing: all have posted the same messages, and MPI or the network does not move them"]


def describe(seen, timeout):
    """The message of a hang, from all ranks as Seen."""
    return (f"nothing has moved on any rank for {timeout:g} s | {_listed(culprits(seen))}"
            f" | waiting: {_listed(waiting(seen)) or 'nobody who could be asked'}"
            " | try: look at the ranks and hosts named first; python -m mpilayer.flight shows what a run with --out has"
            " kept; a longer timeout if a rank may be busy for so long")
