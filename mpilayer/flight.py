"""What the ranks of a run were doing when it ended: `python -m mpilayer.flight OUT/flight`.

A run with --out keeps its flight recorders in files, which are there while it runs, and afterwards if it failed.
"""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from mpilayer.base.cli import HelpFormatter, Parser, natural
from mpilayer.base.errors import UserError
from mpilayer.base.terminal import run_alone
from mpilayer.mpi.flight_recorder import read
from mpilayer.mpi.hang import ALIVE, Seen, culprits

LAST = 3  # messages of each rank in the overview
TIMES = "seconds before the last record of all ranks"


def parser():
    """All options."""
    p = Parser(prog="python -m mpilayer.flight", description=__doc__, formatter_class=HelpFormatter)
    p.add_argument("folder", type=Path, help="with files *.flight, OUT/flight of a run with --out OUT")
    p.add_argument("--rank", type=natural, help="all records of this rank, instead of an overview")
    return p


def _ago(latest, moment, clock):
    return "" if moment is None else f"{latest - moment - clock:.3f}"


def overview(reports, latest):
    """A Table: a line for each rank, with its last messages."""
    table = Table("rank", "host", "where", "waits for", "moved, s ago", "last messages",
                  title=TIMES)
    for each in reports:
        last = ", ".join(f"{record.name} of step {record.step}: {record.state}" for record in each.records[-LAST:])
        table.add_row(str(each.rank), each.host, each.place, each.waiting, _ago(latest, each.moved, each.clock), last)
    return table


def messages(report, latest):
    """A Table of the messages of a rank."""
    table = Table("", "step", "message", "bytes", "posted, s ago", "started", "done",
                  title=f"rank {report.rank} ({report.host}), {report.place}: {TIMES}")
    for record in report.records:
        moments = (_ago(latest, moment, report.clock) for moment in (record.posted, record.started, record.done))
        table.add_row(str(record.number), str(record.step), record.name, str(record.size or ""), *moments)
    return table


def show(options):
    """Print the overview, or one rank. Raises UserError."""
    reports, console = read(options.folder), Console(highlight=False)
    latest = max(each.clock + each.moved for each in reports)
    if options.rank is not None:
        of_rank = [each for each in reports if each.rank == options.rank]
        if not of_rank:
            raise UserError(f"--rank {options.rank} | expected one of {', '.join(str(each.rank) for each in reports)}")
        console.print(messages(of_rank[0], latest))
        return
    console.print(overview(reports, latest))
    absent = sorted(set(range(reports[0].size)) - {each.rank for each in reports})
    if absent:
        console.print(f"no records of ranks {', '.join(map(str, absent))}")
    seen = [Seen(each.rank, each.host, ALIVE, latest - each.clock - each.moved, each) for each in reports]
    for text in culprits(seen):
        console.print(text)


def main(argv=None):
    """Entry point."""
    run_alone(show, parser(), argv)


if __name__ == "__main__":
    main()
