"""Predictions next to those of another simulator: SimGrid's SMPI replays the same steps, message by message."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from rich.table import Table

import nets
from bench import advise
from bench import options as shared
from bench import point_to_point as messages
from bench.rows import console
from mpilayer.base.cli import number, positive
from mpilayer.base.errors import UserError
from mpilayer.compression import COMPRESSORS
from mpilayer.exchange.messages import buckets_of
from mpilayer.model.networks import NETWORKS, Sums, link_of
from mpilayer.model.programs import PROGRAMS, Work
from mpilayer.model.wire import Wire

SCHEDULES = {name: advise.CANDIDATES[name][:2] for name in ("oneshot", "layerwise", "planned", "split", "delayed:1",
                                                          "local-sgd")}
PLAIN = {"network/model": "CM02", "network/bandwidth-factor": 1, "network/latency-factor": 1, "network/TCP-gamma": 0,
         "network/weight-S": 0, "network/crosstraffic": 0, "smpi/os": "0:0:0:0:0", "smpi/or": "0:0:0:0:0",
         "smpi/ois": "0:0:0:0:0"}  # bytes / rate + latency, as written in the platform, and no more
TIME = re.compile(r"Simulation time ([0-9.e+-]+)")


class Only(Sums):
    """Sums by one algorithm."""

    def __init__(self, network, ranks, algorithm):
        super().__init__(network, ranks)
        self.algorithm = algorithm

    def candidates(self, size):
        """One; adding numbers takes no time, for the other simulator does not know of it."""
        yield from (each._replace(core=0.0) for each in super().candidates(size) if each.name == self.algorithm)


def parser():
    """All options."""
    p = shared.Parser(prog="python -m bench replay", description=__doc__)
    p.add_argument("--net", choices=nets.NETS, default="resnet-mini", help="net to train (default: resnet-mini)")
    p.add_argument("--batch", type=shared.count, default=16, help="samples on each rank (default: 16)")
    p.add_argument("--ranks", type=shared.listed(number(int, 2, "2 ranks or more")), default=[2, 4, 8],
                   metavar="A,B,...", help="one on each host (default: 2,4,8)")
    p.add_argument("--network", choices=NETWORKS, default="1gbit-ethernet", help="(default: 1gbit-ethernet)")
    p.add_argument("--rate", type=shared.rate, help="another rate of a host's link, as in 200mbit")
    p.add_argument("--latency", type=shared.seconds, help="another latency, as in 1ms")
    p.add_argument("--slow", type=positive, default=1.0, metavar="FACTOR",
                   help="one rank computes so many times as long (default: 1)")
    p.add_argument("--steps", type=shared.count, default=20, help="training steps (default: 20)")
    p.add_argument("--profile", type=Path, metavar="FILE", help="times of computing that advise --save-profile has"
                   " written (default: measured here, on one core)")
    p.add_argument("--export", type=Path, metavar="FOLDER",
                   help="keep the traces and the platform of SMPI, and the same as GOAL, in this folder")
    shared.add_json(p)
    return p


def replayed(folder, traces, ranks):
    """Seconds that SMPI simulates for the traces in a folder, with its platform.xml. Raises UserError."""
    (folder / "traces").write_text("".join(f"{folder / name}\n" for name in sorted(
        traces, key=lambda name: (name.startswith("mover"), int(re.search(r"\d+", name)[0])))))
    (folder / "hosts").write_text("".join(f"host{rank}\n" for rank in [*range(ranks)] * 2))
    settings = [f"--cfg={name}:{value}" for name, value in PLAIN.items()]
    words = ["smpirun", "-np", str(2 * ranks), "-platform", str(folder / "platform.xml"), "-hostfile",
             str(folder / "hosts"), "-replay", str(folder / "traces"), *settings]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, check=False)
    found = TIME.findall(done.stdout + done.stderr)
    if done.returncode or not found:
        raise UserError(f"smpirun: {(done.stdout + done.stderr).strip()[-500:]} | expected a simulation to its end")
    return float(found[-1])


def compared(net, profile, network, options, folder):
    """A row for each number of ranks, algorithm and schedule; their traces stay in the folder."""
    for ranks in options.ranks:
        link = link_of(network, ranks)
        cuts = buckets_of(net, COMPRESSORS["float32"](), link.bucket, link.chunk, ranks)
        for algorithm in messages.SUMS if ranks & (ranks - 1) == 0 else ["ring"]:
            sums = Only(network, ranks, algorithm)
            for name, (schedule, how) in SCHEDULES.items():
                record = messages.recorded(PROGRAMS[schedule](Work(profile, net.layers, cuts), **how), options.steps,
                                           Wire(sums, sums), options.slow)
                place = folder / f"{name.replace(':', '-')}-{algorithm.replace(' ', '-')}-{ranks}"
                place.mkdir(parents=True, exist_ok=True)
                traces = messages.smpi(record, algorithm, ranks)
                texts = {**traces, "steps.goal": messages.goal(record, algorithm, ranks)}
                for file, lines in texts.items():
                    (place / file).write_text("\n".join(lines) + "\n")
                (place / "platform.xml").write_text(messages.platform(network, ranks))
                seconds = replayed(place, traces, ranks)
                yield {"ranks": ranks, "algorithm": algorithm, "schedule": name,
                       "difference": record.seconds / seconds - 1, "seconds": record.seconds / options.steps,
                       "replayed_seconds": seconds / options.steps}


def show(options, network, profile, rows, say):
    """A table: milliseconds of ours and of SMPI, a column for each number of ranks and algorithm."""
    columns = list(dict.fromkeys((row["ranks"], row["algorithm"]) for row in rows))
    table = Table("", *(f"{ranks} ranks, {algorithm.split()[0]}" for ranks, algorithm in columns), title=(
        f"{options.net}, {1e3 * profile.compute:.1f} ms of computing; {shared.show_rate(network.rate)},"
        f" {1e6 * network.latency:.1f} us: ms a step here, in SMPI"))
    for name in SCHEDULES:
        found = {(row["ranks"], row["algorithm"]): row for row in rows if row["schedule"] == name}
        table.add_row(name, *(f"{1e3 * found[column]['seconds']:.2f}, {1e3 * found[column]['replayed_seconds']:.2f}"
                              for column in columns))
    say(table)
    worst = max(rows, key=lambda row: abs(row["difference"]))
    say(f"{len(rows)} rows; the largest difference is {worst['difference']:+.2%}, of {worst['schedule']} on"
        f" {worst['ranks']} ranks, {worst['algorithm']}")


def main(argv):
    """Simulate, replay, print."""
    options = parser().parse_args(argv)
    shared.check_files(options)
    if not shutil.which("smpirun"):
        raise UserError("smpirun was not found | expected SimGrid | try: apt install libsimgrid-dev")
    net, network, say = nets.build(options.net), advise.network_of(options), console(width=150).print
    profile = (advise.read(options.profile, net, options.net) if options.profile else
               advise.measured(net, options.batch))
    with tempfile.TemporaryDirectory() as folder:
        rows = list(compared(net, profile, network, options, options.export or Path(folder)))
    show(options, network, profile, rows, say)
    shared.save(options, rows)
