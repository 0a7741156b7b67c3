"""Options that measurements share."""

import argparse
import contextlib
import json
import math
import os
import re
from pathlib import Path

import kernels
from kernels import gpu
from mpilayer.base import cli
from mpilayer.base.cli import count
from mpilayer.base.errors import UserError
from mpilayer.base.files import replacing
from mpilayer.mpi import job as mpi_job
from mpilayer.mpi import launcher
from mpilayer.report import plots

UNITS = {"gbit": (1e9, "Gbit/s"), "mbit": (1e6, "Mbit/s"), "kbit": (1e3, "kbit/s")}  # bits a second, in print
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}

SPEC = "NAME:DELAY+OPTION=VALUE with options of mpilayer.train, as in delayed:1+momentum-correction, ps+staleness=2"


class Parser(cli.Parser):
    """For a command that runs on several ranks: the first shows the help, all together say what is wrong."""

    def print_help(self, file=None):
        """Once, although MPI is not there yet."""
        _, rank, _ = launcher.launched_apart(os.environ, 1) or (1, 0, "")
        if rank == 0:
            super().print_help(file)


@contextlib.contextmanager
def job(p, argv):
    """The whole life of a rank: `with job(parser, argv) as (ranks, options)`; `p` is a Parser. See mpi_job.job."""
    with contextlib.suppress(UserError):
        p.parse_args(argv)  # --help ends here, without MPI; what is wrong is said when the ranks can agree
    with mpi_job.job() as ranks:
        yield ranks, ranks.agree(lambda: p.parse_args(argv))


def listed(convert):
    """An argparse type: A,B,..., each converted."""
    return lambda text: [convert(part) for part in text.split(",")]


def some(known):
    """An argparse type: some of the known names, by commas."""
    def convert(text):
        names = text.split(",")
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}, got {text!r}")
        return names

    return convert


def sizes(text):
    """Bytes of float32, by commas, for argparse."""
    found = listed(count)(text)
    if any(size % 4 for size in found):
        raise argparse.ArgumentTypeError(f"expected multiples of 4 bytes, got {text!r}")
    return sorted(set(found))


def rate(text):
    """Bits a second, as in 500mbit or 2.5gbit (thousands, not 1024), infinity for none; for argparse."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(kbit|mbit|gbit)", text.lower())
    bits = float(found[1]) * UNITS[found[2]][0] if found else math.inf
    if text.lower() != "none" and not 0 < bits < math.inf:
        raise argparse.ArgumentTypeError(f"expected a rate such as 500mbit or 1gbit, or none, got {text!r}")
    return bits


def seconds(text):
    """Seconds, as in 50ms or 2us, for argparse."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s)", text.lower())
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"expected a time such as 50ms or 2us, got {text!r}")
    return float(found[1]) * SECONDS[found[2]]


def add_links(p):
    """--rate, of several runs, and --latency."""
    p.add_argument("--rate", type=listed(rate), default=[float("inf")], metavar="A,B,...",
                   help="with --hosts: rates of the links, as in 500mbit, one run for each (default: none, no limit)")
    add_latency(p)


def check_links(options):
    """Raise UserError if links are described, but no --hosts are asked for whose links they would be."""
    if options.hosts is None and (options.latency or options.rate != [float("inf")]):
        raise UserError("--rate and --latency are of emulated links | try: with --hosts 2")


def add_latency(p):
    """--latency."""
    p.add_argument("--latency", type=seconds, default=0.0, metavar="T", help="of each emulated link, one way, as 50ms;"
                   " a thread of this process hands on the packets (default: what this machine has)")


def show_rate(bits):
    """In words."""
    size, unit = next((pair for pair in UNITS.values() if bits >= pair[0]), UNITS["kbit"])
    return f"{bits / size:.4g} {unit}"


def add(p, peers, rounds):
    """--peer (a key of `peers`, if there are any), --rounds, --threads and --json."""
    if peers:
        p.add_argument("--peer", choices=peers, help="measure this library as well, in turn with ours (default: none)")
    p.add_argument("--rounds", type=count, default=rounds, help=f"readings of each time, at least (default: {rounds})")
    p.add_argument("--threads", type=count, default=1, help="threads that kernels may use (default: 1)")
    add_json(p)


def _precision(text):
    if text == "bfloat16":
        try:
            gpu.bfloat16()
        except ImportError:
            raise argparse.ArgumentTypeError('bfloat16 needs ml_dtypes | try: pip install -e ".[bfloat16]"') from None
    return text


def add_precision(p):
    """--precision on the CPU."""
    p.add_argument("--precision", type=_precision, choices=("float32", "bfloat16"), default="float32",
                   help="of what flows from layer to layer (default: float32)")


def add_json(p):
    """--json."""
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")


def begin(options, rank=0):
    """Set the threads, and check files."""
    kernels.set_num_threads(options.threads)
    check_files(options, rank)


def begin_on(ranks, options):
    """The same on every rank of a job. Raises UserError if it is alone."""
    begin(options, ranks.rank)
    if ranks.size == 1:
        raise UserError("one rank has nobody to talk to | try: mpiexec -n 2 python -m bench ...")


def check_files(options, rank=0):
    """Raise UserError at once for a file (--json, --plot) that cannot be written at the end; only rank 0 writes any."""
    given = {name: vars(options)[name] for name in ("json", "plot") if vars(options).get(name)}
    if rank > 0:
        vars(options).update(dict.fromkeys(given))
        return
    for name, file in given.items():
        if not file.parent.is_dir():
            raise UserError(f"--{name} {file}: there is no folder {file.parent}")
    if "plot" in given:
        plots.figure()


def threads(options):
    """How many, in words."""
    return "one thread" if options.threads == 1 else f"{options.threads} threads"


def save(options, figures, draw=None):
    """Write what --json asks for, and what --plot does: draw(figures, file). Raises UserError."""
    if options.json:
        try:
            with replacing(options.json) as file:
                json.dump(figures, file, indent=1)
        except OSError as error:
            raise UserError(f"cannot write {options.json} ({error.strerror}) | try: another --json") from None
    if draw and options.plot:
        draw(figures, options.plot)
