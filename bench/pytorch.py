"""A PyTorch model on emulated hosts: mpilayer.torch, DistributedDataParallel on gloo and Heat in turn (needs root)."""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from bench import options as shared
from bench.kernels import open_torch
from bench.rows import console

ENGINES = "ddp,planned,layerwise,delayed:1"
WORDS = "engine", "progress"
LINE = "{:12} {:>10} {:>10} {:>9} {:>10} {:>12} {:>22}"
HEAD = LINE.format("engine", "ms a step", "computing", "of ddp", "MB sent", "progress", "rounds, ms")


def parser():
    """All options."""
    p = shared.Parser(prog="python -m bench torch", description=__doc__)
    p.add_argument("--net", choices=("alexnet", "googlenet", "resnet50", "gpt"), default="alexnet",
                   help="model (default: alexnet)")
    p.add_argument("--batch", type=shared.count, default=16, help="samples on each rank (default: 16)")
    p.add_argument("--hosts", type=shared.count, default=2, help="emulated hosts (default: 2)")
    p.add_argument("--ranks", type=shared.count, help="ranks in all, as many on each host (default: one on each)")
    p.add_argument("--rate", type=shared.rate, default=1e9, help="of their links (default: 1gbit)")
    p.add_argument("--engines", type=shared.listed(str), default=ENGINES.split(","), metavar="A,B,...",
                   help="ddp, heat (pip install --no-deps heat==1.8.0 scipy), and schedules of mpilayer.torch, such"
                        f" as delayed:1+wire=bfloat16 (default: {ENGINES})")
    p.add_argument("--steps", type=shared.count, default=20, help="timed steps in a round (default: 20)")
    p.add_argument("--rounds", type=shared.count, default=3, help="engines take turns in each (default: 3)")
    shared.add_json(p)
    return p


def rows_of(readings):
    """A row for each engine: medians over the rounds."""
    first = statistics.median(row["iteration_seconds"] for row in next(iter(readings.values())))
    for engine, found in readings.items():
        medians = {key: statistics.median(row[key] for row in found) for key in found[0] if key not in WORDS}
        yield {"engine": engine, **medians, "progress": " ".join(sorted({row["progress"] for row in found})),
               "speedup": first / medians["iteration_seconds"],
               "rounds": [row["iteration_seconds"] for row in found]}


def line(row):
    """A row of the table."""
    return LINE.format(row["engine"], f"{1e3 * row['iteration_seconds']:.0f}", f"{1e3 * row['compute_seconds']:.0f}",
                       f"{row['speedup']:.2f}x", f"{1e-6 * row['bytes_on_wire']:.1f}", row["progress"],
                       " ".join(f"{1e3 * each:.0f}" for each in row["rounds"]))


def main(argv):
    """Measure, print, and save."""
    from bench.cluster import Hosts

    options = parser().parse_args(argv)
    shared.check_files(options)
    open_torch()
    say, readings = console(width=120).print, {engine: [] for engine in options.engines}
    with Hosts(options.hosts, options.rate) as hosts, tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for engine, found in readings.items():
                file = Path(folder, "row.json")
                words = {"net": options.net, "batch": options.batch, "steps": options.steps, "engine": engine,
                         "address": hosts.address(0), "json": file}
                status = hosts.run([sys.executable, "-m", "bench.torch_engine", *(
                    word for name, value in words.items() for word in (f"--{name}", str(value)))],
                    options.ranks, OMP_NUM_THREADS="1")
                if status:
                    raise SystemExit(status)
                found.append(json.loads(file.read_text()))
                say(f"round {number + 1}/{options.rounds}  {engine:12} {1e3 * found[-1]['iteration_seconds']:9.0f} ms")
    rows = list(rows_of(readings))
    say(f"{options.net}, batch {options.batch} a rank, {options.ranks or options.hosts} ranks, {options.hosts} hosts,"
        f" {1e-9 * options.rate:g} Gbit/s")
    say(HEAD, style="bold")
    for row in rows:
        say(line(row))
    shared.save(options, rows)
