"""The options of `python -m mpilayer.train`: what they are, and which go together."""

import argparse
import contextlib
import math
from pathlib import Path

from mpilayer.base.errors import UserError
from mpilayer.compression.payload import WIRES
from mpilayer.data import AUGMENTS, SOURCES
from mpilayer.gpu import device
from mpilayer.mpi.collectives import REDUCTIONS
from mpilayer.mpi.progress import PROGRESS
from mpilayer.schedules import SCHEDULES
from mpilayer.schedules.layerwise import APPLY
from mpilayer.training.optim import OPTIMIZERS, POLICIES

SIZES = {"width": "channels of a token", "heads": "of attention", "depth": "pairs of attention and dense layers"}
PURPOSE = "Train a network, data-parallel over MPI: mpiexec -n P python -m mpilayer.train. One rank needs no mpiexec."


class Parser(argparse.ArgumentParser):
    """Leaves it to the ranks together to say what is wrong."""

    def error(self, message):
        """Raise UserError."""
        raise UserError(f"{message} | try: {self.prog} --help")


def number(kind, least, what):
    """An argparse type: a number of that kind, at least `least`."""
    def convert(text):
        with contextlib.suppress(ValueError, OverflowError):
            value = kind(text)
            if value >= least and math.isfinite(value):
                return value
        raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}")

    return convert


count = number(int, 1, "a positive whole number")
_natural = number(int, 0, "a whole number, not negative")


def _shape(text):
    try:
        sizes = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        sizes = ()
    if len(sizes) != 3 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected HxWxC, as in 32x32x3, got {text!r}")
    return sizes


def _delay(text):
    return text if text == "auto" else number(int, 0, "a whole number, not negative, or auto")(text)


def _staleness(text):
    return text if text == "none" else number(int, 0, "a whole number, not negative, or none")(text)


def _slow(text):
    rank, _, factor = text.partition(":")
    return number(int, 0, "RANK:FACTOR, as in 1:3")(rank), number(float, 1, "a factor of 1 or more")(factor)


def size_in_bytes(text):
    """An argparse type: bytes as in 65536, 64k, 4m; auto; or none for no limit (None)."""
    if text in ("auto", "none"):
        return text if text == "auto" else None
    factor = {"k": 2**10, "m": 2**20, "g": 2**30}.get(text[-1:].lower(), 1)
    digits = text if factor == 1 else text[:-1]
    if not digits.isdecimal() or (factor > 1 and int(digits) == 0):
        raise argparse.ArgumentTypeError(f"expected bytes as in 65536, 64k or 4m, auto or none, got {text!r}")
    return int(digits) * factor


def add_messages(p):
    """The options of how gradients travel."""
    p.add_argument("--progress", choices=("auto", *PROGRESS), default="auto",
                   help="what makes messages move during computation; auto measures that")
    p.add_argument("--bucket", type=size_in_bytes, default="auto", help="bytes up to which small neighbours are fused")
    p.add_argument("--chunk", type=size_in_bytes, default="auto", help="bytes from which on a layer is split")
    p.add_argument("--reduction", choices=REDUCTIONS, default="native",
                   help="sums as MPI makes them, or in rank order: the same bits however layers are grouped, or among"
                   " GPUs by NCCL")
    p.add_argument("--wire", choices=WIRES, default="float32",
                   help="what travels: all numbers, rounded, each layer's largest, or its matrices' factors")
    p.add_argument("--error-feedback", action="store_true",
                   help="bfloat16: add what rounding loses to the next gradient (topk, powersgd: always)")
    p.add_argument("--top-share", type=number(float, 1e-9, "a positive number"), metavar="SHARE",
                   help="topk: the share of a layer's numbers that travels (default: 0.01)")
    p.add_argument("--matrix-rank", type=count, metavar="R", help="powersgd: rank of the factors (default: 4)")


BELONGING = {"error_feedback": ("bfloat16", False), "top_share": ("topk", 0.01), "matrix_rank": ("powersgd", 4)}


def check_messages(options):
    """Complete the options of add_messages. Raises UserError for those that do not go together."""
    for name, (wire, default) in BELONGING.items():
        if getattr(options, name) and options.wire != wire:
            raise UserError(f"{_flag(name)} goes with --wire {wire}, not {options.wire}")
        setattr(options, name, getattr(options, name) or default)
    if options.top_share > 1:
        raise UserError(f"--top-share {options.top_share}: expected at most 1")
    if options.wire in ("topk", "powersgd") and options.reduction != "native":
        raise UserError(f"--wire {options.wire} goes with --reduction native: it has sums of its own")


def add_schedules(p):
    """The options that belong to some schedules; what is not given has the schedule's own default."""
    natural, amount = _natural, number(float, 0, "a number, not negative")
    p.add_argument("--delay", type=_delay, metavar="K", help="delayed: steps a gradient is late, or auto for as few as"
                   " hide communication (default: 1); local-sgd, diloco, elastic: steps a mean is late (default: 0)")
    p.add_argument("--delay-warmup", type=natural, metavar="STEPS", help="delayed: without delay at first (default: 0)")
    p.add_argument("--delay-compensation", type=amount, default=0.0, metavar="FACTOR",
                   help="delayed, ps: move late gradients towards what they would be now")
    p.add_argument("--momentum-correction", action="store_true",
                   help="delayed, ps: a late gradient brings along what its momentum would have moved since")
    p.add_argument("--apply", choices=APPLY, help="layerwise: when updates are made (default: lazy)")
    p.add_argument("--period", type=count, metavar="H", help="local-sgd, diloco, elastic: steps between means (default:"
                   " 10, diloco 20)")
    p.add_argument("--outer-lr", type=amount, help="diloco: learning rate of the mean difference (default: 0.7)")
    p.add_argument("--outer-momentum", type=amount, help="diloco: its Nesterov momentum (default: 0.9)")
    p.add_argument("--elasticity", type=amount, help="elastic: pull on the centre, by all ranks (default: 0.9)")
    p.add_argument("--quorum", type=count, metavar="N",
                   help="partial: ranks that a sum waits for (default: all but one)")
    p.add_argument("--staleness", type=_staleness, metavar="S", help="ps: steps a rank may be ahead of another, or none"
                   " for no bound; 0 sums all ranks' gradients (default: 0)")
    p.add_argument("--servers", type=natural, metavar="N", help="ps: ranks, the last ones, that do nothing else; 0: all"
                   " ranks serve and compute (default: 0)")


def add_disturbance(p):
    """The options of how slow ranks pretend to be."""
    p.add_argument("--slow", type=_slow, action="append", metavar="RANK:FACTOR",
                   help="let a rank compute so many times as long; may be given several times")
    p.add_argument("--jitter", type=number(float, 0, "a number, not negative"), default=0.0, metavar="SHARE",
                   help="let every rank compute longer, in each step by a random share with this mean")


def _flag(option):
    return f"--{option.replace('_', '-')}"


def complete_schedule(options, ranks):
    """Give the schedule's options their defaults. Raises UserError for what does not go with it."""
    kind, name = SCHEDULES[options.schedule], options.schedule
    for option in sorted({option for other in SCHEDULES.values() for option in other.takes}):
        _complete(options, option, kind)
    for option, why in kind.refuses.items():
        if getattr(options, option):
            raise UserError(f"{_flag(option)} does not go with --schedule {name}: {why}")
    for option in ("momentum_correction", "delay_compensation"):
        if getattr(options, option) and name not in ("delayed", "ps"):
            raise UserError(f"{_flag(option)} goes with --schedule delayed or ps: nothing else is late")
    if kind.wires and options.wire not in kind.wires:
        raise UserError(f"--wire {options.wire} does not go with --schedule {name}: {kind.wires_because}"
                        f" | try: --wire {' or '.join(kind.wires)}")
    options.delay = options.delay or 0
    _check_schedule(options, kind, ranks)


def _complete(options, option, kind):
    """Give an option the schedule's default. Raises UserError if it is given and belongs to others."""
    value = getattr(options, option)
    if value is None:
        setattr(options, option, kind.takes.get(option))
    elif option not in kind.takes:
        users = " or ".join(name for name, other in SCHEDULES.items() if option in other.takes)
        raise UserError(f"{_flag(option)} {value} goes with --schedule {users}, not {options.schedule}")


def _check_schedule(options, kind, ranks):
    """Raise UserError for values out of range."""
    if "period" in kind.takes and not (options.delay != "auto" and options.delay < options.period):
        raise UserError(f"--delay {options.delay}: expected less than the --period of {options.period}")
    if "quorum" in kind.takes and (options.quorum or 1) > ranks:
        raise UserError(f"--quorum {options.quorum}: there are {ranks} ranks")
    if "outer_momentum" in kind.takes and options.outer_momentum >= 1:
        raise UserError(f"--outer-momentum {options.outer_momentum}: expected less than 1")
    if "delay_warmup" in kind.takes and options.delay_warmup and options.delay == "auto":
        raise UserError("--delay-warmup goes with a --delay of steps: auto begins without delay by itself")
    if kind.servers(options) >= ranks:
        raise UserError(f"--servers {options.servers} leave none of the {ranks} ranks to compute"
                        f" | try: mpiexec -n {options.servers + 1}, or --servers 0, where ranks do both")
    for rank, _ in options.slow or ():
        if rank >= ranks:
            raise UserError(f"--slow {rank}:...: expected a rank in 0..{ranks - 1}")


def _add_data(p):
    p.add_argument("--data", help=f"one of {', '.join(SOURCES)} (default: digits; text for a transformer)")
    p.add_argument("--shape", type=_shape, help="HxWxC of synthetic images (default: the net's); of others the window"
                   " that is read (default: all)")
    p.add_argument("--classes", type=count, help="classes of synthetic images (default: the net's)")
    p.add_argument("--context", type=count, help="bytes in a sample of text (default: the net's)")
    p.add_argument("--augment", choices=AUGMENTS, default="none",
                   help="what happens to images in training; all but none flip them at random, too")
    p.add_argument("--validation", type=number(float, 0, "a share, not negative"), default=0.0, metavar="SHARE",
                   help="hold out so much of the training samples and evaluate on them, not on the test part")


def parser(nets):
    """All options, with their defaults and meaning; `nets` are the names to choose from."""
    natural, amount = _natural, number(float, 0, "a number, not negative")
    p = Parser(prog="python -m mpilayer.train", description=PURPOSE, add_help=False,
               formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--help", "-h", action="store_true", help="show this and stop")
    p.add_argument("--net", choices=nets, default="alexnet-mini", help="what to train")
    p.add_argument("--schedule", choices=SCHEDULES, default="layerwise", help="when gradients are summed and applied")
    add_schedules(p)
    add_disturbance(p)
    device.add_options(p)
    _add_data(p)
    for name, what in SIZES.items():
        p.add_argument(f"--{name}", type=count, help=f"transformer: {what} (default: the net's)")
    sizes = p.add_mutually_exclusive_group()
    sizes.add_argument("--batch", type=count, default=64, help="effective batch, shared out among the ranks")
    sizes.add_argument("--batch-per-rank", type=count, help="instead: the batch of each rank")
    p.add_argument("--epochs", type=count, help="how often to see all samples (default: 30, or as --steps needs)")
    p.add_argument("--steps", type=count, help="stop after so many steps")
    p.add_argument("--lr", type=amount, default=0.007, help="learning rate")
    p.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd", help="what gradients do to the weights")
    p.add_argument("--momentum", type=amount, default=0.9, help="momentum; adamw: beta1")
    p.add_argument("--beta2", type=amount, default=0.999, help="adamw: its beta2")
    p.add_argument("--epsilon", type=amount, default=1e-8, help="adamw: its epsilon")
    p.add_argument("--weight-decay", type=amount, default=5e-4, help="weight decay")
    p.add_argument("--clip", type=number(float, 1e-30, "a positive number"),
                   help="largest norm of a step's gradient; longer ones are scaled (default: no limit)")
    p.add_argument("--label-smoothing", type=amount, default=0.0, help="share of each label that goes to all classes")
    p.add_argument("--batch-statistics", choices=("local", "all"), default="local",
                   help="batch normalization: over the samples of each rank, or of all ranks")
    p.add_argument("--lr-policy", choices=POLICIES, default="poly", help="how the learning rate falls")
    p.add_argument("--lr-step", type=count, default=1000, help="policy step: steps between falls")
    p.add_argument("--lr-gamma", type=amount, default=0.1, help="policy step: factor of a fall")
    p.add_argument("--lr-power", type=amount, default=0.5, help="policy poly: its power")
    p.add_argument("--warmup", type=natural, default=20, help="steps in which the learning rate rises to its value")
    p.add_argument("--seed", type=natural, default=0, help="of weights, batches, dropout and synthetic data")
    add_messages(p)
    p.add_argument("--out", type=Path, help="folder for run.json and timeline.json")
    p.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return p


def _check_optimizer(options):
    """Raise UserError for options that do not go together, or are out of range."""
    for name in ("momentum", "beta2", "label_smoothing"):
        if getattr(options, name) >= 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected less than 1")


def read_options(argv, nets, ranks):
    """The options, completed and checked for so many ranks. Raises UserError."""
    options = parser(nets).parse_args(argv)
    check_messages(options)
    complete_schedule(options, ranks)
    device.check(options, SCHEDULES)
    _check_optimizer(options)
    language = options.net.startswith("transformer")
    options.data = options.data or ("text" if language else "digits")
    for name in SIZES:
        if getattr(options, name) and not language:
            raise UserError(f"--{name} goes with --net transformer, not {options.net}")
    workers = ranks - SCHEDULES[options.schedule].servers(options)
    if options.batch_per_rank:
        options.batch = options.batch_per_rank * workers
    if options.batch < workers:
        raise UserError(f"a batch of {options.batch} is smaller than the {workers} ranks that share it"
                        f" | expected at least one sample a rank | try: --batch {workers}")
    if options.epochs is None and options.steps is None:
        options.epochs = 30
    return options
