"""The options of `python -m mpilayer.train`: those of the run itself, and of the parts that it is made of.

A part (a schedule, net, compressor, optimizer, ...) names its options itself, beside its code; here they meet.
"""

from pathlib import Path

from mpilayer.base.cli import Choice, HelpFormatter, Parser, amount, count, flag, natural, number, size_in_bytes
from mpilayer.base.errors import UserError
from mpilayer.compression import COMPRESSORS
from mpilayer.data import AUGMENTS, DATA
from mpilayer.exchange.settings import Settings
from mpilayer.gpu import device
from mpilayer.mpi.collectives import REDUCTIONS
from mpilayer.mpi.progress import PROGRESS
from mpilayer.schedules import SCHEDULES, make
from mpilayer.training import straggler
from mpilayer.training.optim import OPTIMIZERS
from mpilayer.training.rates import POLICIES

PROGRAM = "python -m mpilayer.train"
PURPOSE = "Train a network, data-parallel over MPI: mpiexec -n P python -m mpilayer.train. One rank needs no mpiexec."
WIRE = Choice("wire", COMPRESSORS, "float32",
              "what travels: all numbers, rounded, each layer's largest, or its matrices' factors")
OPTIMIZER = Choice("optimizer", OPTIMIZERS, "sgd", "what gradients do to the weights")
POLICY = Choice("lr_policy", POLICIES, "poly", "how the learning rate falls")
LATE = "momentum_correction", "delay_compensation"  # of an optimizer: for schedules that apply late gradients


def add_messages(p):
    """The options of how gradients travel."""
    p.add_argument("--progress", choices=("auto", *PROGRESS), default="auto",
                   help="which code calls MPI during computation, so that messages advance; auto measures that")
    p.add_argument("--bucket", type=size_in_bytes, default="auto", help="bytes up to which small neighbours are fused")
    p.add_argument("--chunk", type=size_in_bytes, default="auto", help="bytes from which on a layer is split")
    p.add_argument("--reduction", choices=REDUCTIONS, default="native",
                   help="sums as MPI makes them, or in rank order: the same bits however layers are grouped, or among"
                   " GPUs by NCCL")
    WIRE.add(p)


def check_messages(options):
    """Complete the options of add_messages. Raises UserError for those that do not go together."""
    WIRE.complete(options, shown=False)
    if COMPRESSORS[options.wire].own_sums and options.reduction != "native":
        raise UserError(f"--wire {options.wire} goes with --reduction native: it has sums of its own")


def settings(options):
    """The Settings that the options of add_messages ask for."""
    return Settings(progress=options.progress, reduction=options.reduction, wire=options.wire,
                    wire_options=WIRE.keywords(options), bucket=options.bucket, chunk=options.chunk)


def complete_schedule(options, ranks):
    """Give the schedule's options their defaults. Raises UserError for what does not go with it."""
    kind, name = SCHEDULES[options.schedule], options.schedule
    make.CHOICE.complete(options)
    for option, why in kind.refuses.items():
        if getattr(options, option):
            raise UserError(f"{flag(option)} does not go with --schedule {name}: {why}")
    for option in LATE:
        if getattr(options, option) and not kind.late:
            able = " or ".join(name for name, other in SCHEDULES.items() if other.late)
            raise UserError(f"{flag(option)} goes with --schedule {able}: nothing else is late")
    if kind.wires and options.wire not in kind.wires:
        raise UserError(f"--wire {options.wire} does not go with --schedule {name}: {kind.wires_because}"
                        f" | try: --wire {' or '.join(kind.wires)}")
    kind.check(ranks, **make.CHOICE.keywords(options))


def _add_data(p):
    DATA.add(p)
    p.add_argument("--augment", choices=AUGMENTS, default="none",
                   help="what happens to images in training; all but none flip them at random, too")
    p.add_argument("--validation", type=number(float, 0, "a share, not negative"), default=0.0, metavar="SHARE",
                   help="hold out so much of the training samples and evaluate on them, not on the test part")


def parser(net, chosen=None):
    """All options, with their defaults and meaning; `net` is the Choice of nets, `chosen` a schedule's name."""
    p = Parser(prog=PROGRAM, description=PURPOSE, add_help=False,
               formatter_class=HelpFormatter)
    p.add_argument("--help", "-h", action="store_true", help="show this and stop")
    net.add(p)
    make.CHOICE.add(p, chosen)
    straggler.add_options(p)
    device.add_options(p)
    _add_data(p)
    sizes = p.add_mutually_exclusive_group()
    sizes.add_argument("--batch", type=count, default=64, help="effective batch, shared out among the ranks")
    sizes.add_argument("--batch-per-rank", type=count, help="instead: the batch of each rank")
    p.add_argument("--epochs", type=count, help="how often to see all samples (default: 30, or as --steps needs)")
    p.add_argument("--steps", type=count, help="stop after so many steps")
    p.add_argument("--lr", type=amount, default=0.007, help="learning rate")
    OPTIMIZER.add(p)
    p.add_argument("--label-smoothing", type=amount, default=0.0, help="share of each label that goes to all classes")
    p.add_argument("--batch-statistics", choices=("local", "all"), default="local",
                   help="batch normalization: over the samples of each rank, or of all ranks")
    POLICY.add(p)
    p.add_argument("--warmup", type=natural, default=20, help="steps in which the learning rate rises to its value")
    p.add_argument("--seed", type=natural, default=0, help="of weights, batches, dropout and synthetic data")
    add_messages(p)
    p.add_argument("--out", type=Path, help="folder for run.json and timeline.json")
    p.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return p


def _expanded(argv, net):
    """(argv with --schedule NAME:DELAY+OPTION=VALUE as words of its own, the schedule's name); what is the user's own,
    and must be known before there can be a parser, is loaded.
    """
    first = Parser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    for choice in (make.CHOICE, net, DATA):
        first.add_argument(flag(choice.name))
    names, _ = first.parse_known_args(argv)
    words = [None, None] if names.schedule is None else make.words(names.schedule)
    own = [(make.CHOICE, words[1]), (net, names.net), (DATA, names.data)]
    for choice, name in own:
        if name and ":" in name:
            choice.load(name)
    argv = [words[1] if word == names.schedule else word for word in argv]
    argv = [f"--schedule={words[1]}" if word == f"--schedule={names.schedule}" else word for word in argv]
    return [*argv, *words[2:]], words[1]


def read_options(argv, net, ranks):
    """The options, completed and checked for so many ranks; `net` is the Choice of nets. Raises UserError."""
    argv, schedule = _expanded(argv, net)
    options = parser(net, schedule).parse_args(argv)
    check_messages(options)
    OPTIMIZER.complete(options, shown=False)
    POLICY.complete(options, shown=False)
    complete_schedule(options, ranks)
    straggler.check(options, ranks)
    device.check(options, SCHEDULES)
    if options.label_smoothing >= 1:
        raise UserError(f"--label-smoothing {options.label_smoothing}: expected less than 1")
    net.complete(options, shown=False)
    options.data = options.data or net.parts[options.net].data
    workers = ranks - SCHEDULES[options.schedule].servers(**make.CHOICE.keywords(options))
    if options.batch_per_rank:
        options.batch = options.batch_per_rank * workers
    if options.batch < workers:
        raise UserError(f"a batch of {options.batch} is smaller than the {workers} ranks that share it"
                        f" | expected at least one sample a rank | try: --batch {workers}")
    if options.epochs is None and options.steps is None:
        options.epochs = 30
    return options
