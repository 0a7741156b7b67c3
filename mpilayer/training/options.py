"""The options of `python -m mpilayer.train`: those of the run itself, and of the parts that it is made of.

A part (a schedule, net, compressor, optimizer, ...) names its options itself, beside its code; here they meet.
"""

from itertools import pairwise

from mpilayer.base.cli import (
    Choice,
    HelpFormatter,
    Parser,
    amount,
    count,
    flag,
    folder,
    natural,
    natural_or,
    number,
    size_in_bytes,
)
from mpilayer.base.errors import UserError
from mpilayer.compression import COMPRESSORS
from mpilayer.data import AUGMENTS, DATA
from mpilayer.exchange.settings import Settings
from mpilayer.gpu import device
from mpilayer.mpi.progress import PROGRESS
from mpilayer.mpi.ranks import TIMEOUT
from mpilayer.mpi.reductions import REDUCTIONS
from mpilayer.schedules import make
from mpilayer.training import config, logs, optim, recovery, resuming, slowed
from mpilayer.training.optim import OPTIMIZERS
from mpilayer.training.rates import POLICIES

PROGRAM = "python -m mpilayer.train"
PURPOSE = "Train a network, data-parallel over MPI: mpiexec -n P python -m mpilayer.train. One rank needs no mpiexec."
WIRE = Choice("wire", COMPRESSORS, "float32",
              "what travels: all numbers, rounded, each layer's largest, or its matrices' factors")
OPTIMIZER = Choice("optimizer", OPTIMIZERS, "sgd", "what gradients do to the weights")
POLICY = Choice("lr_policy", POLICIES, "poly", "how the learning rate falls")


def add_messages(p):
    """The options of how gradients travel."""
    p.add_argument("--progress", choices=("auto", *PROGRESS), default="auto",
                   help="which code calls MPI during computation, so that messages advance; auto measures that")
    p.add_argument("--bucket", type=size_in_bytes, default="auto", help="bytes up to which small neighbours are fused")
    p.add_argument("--chunk", type=size_in_bytes, default="auto", help="bytes from which on a layer is split")
    p.add_argument("--reduction", choices=("auto", *REDUCTIONS), default="auto",
                   help="sums as MPI makes them, or in rank order: the same bits however layers are grouped, or in"
                   " memory that the ranks of a node share, then among nodes, or among GPUs by NCCL; auto: levels where"
                   " ranks share a node, among several nodes if that is faster")
    WIRE.add(p)


def check_messages(options):
    """Complete the options of add_messages. Raises UserError for those that do not go together."""
    WIRE.complete(options, shown=False)
    if COMPRESSORS[options.wire].own_sums and options.reduction not in ("auto", "native"):
        raise UserError(f"--wire {options.wire} goes with --reduction native: it has sums of its own")


def settings(options):
    """The Settings that the options of add_messages ask for."""
    return Settings(progress=options.progress, reduction=options.reduction, wire=options.wire,
                    wire_options=WIRE.keywords(options), bucket=options.bucket, chunk=options.chunk)


def _late():
    """Names of the schedules that apply late gradients."""
    return [name for name, kind in make.CHOICE.parts.items() if kind.late]


def complete_schedule(options, ranks):
    """Give the schedule's options their defaults. Raises UserError for what does not go with it."""
    kind, name = make.CHOICE.parts[options.schedule], options.schedule
    make.CHOICE.complete(options)
    make.check_fit(kind, name, OPTIMIZER.parts[options.optimizer], options, options.wire, flag)
    kind.check(ranks, **make.CHOICE.keywords(options))
    for given, option in ((options.check_replicas not in (0, "epoch"), f"--check-replicas {options.check_replicas}"),
                          (options.heal, "--heal")):
        if given and not kind.replicated:
            able = ", ".join(key for key, other in make.CHOICE.parts.items() if other.replicated)
            raise UserError(f"{option} does not go with --schedule {name}: its ranks have weights of their own between"
                            f" two epochs | try: --schedule {able}")


def _add_net(p, net, chosen):
    net.add(p, chosen.get(net.name))
    p.add_argument("--weights", metavar="FILE", help="begin with the weights of a run, its weights.h5, or a PyTorch"
                   " state dict in safetensors; layers of other classes stay new")
    p.add_argument("--label-smoothing", type=amount, default=0.0, help="share of each label that goes to all classes")
    p.add_argument("--batch-statistics", choices=("local", "all"), default="local",
                   help="batch normalization: over the samples of each rank, or of all ranks")
    p.add_argument("--seed", type=natural, default=0, help="of weights, batches, dropout and synthetic data")
    device.add_options(p)


def _add_data(p):
    DATA.add(p)
    p.add_argument("--augment", choices=AUGMENTS, default="none",
                   help="what happens to images in training; all but none flip them at random, too")
    p.add_argument("--validation", type=number(float, 0, "a share, not negative"), default=0.0, metavar="SHARE",
                   help="hold out so much of the training samples and evaluate on them, not on the test part")
    p.add_argument("--shuffle-block", type=count, metavar="N", help="mix samples of 16 blocks of N neighbours at a"
                   " time, for a file that is larger than memory (default: all samples are mixed)")
    sizes = p.add_mutually_exclusive_group()
    sizes.add_argument("--batch", type=count, default=64, help="effective batch, shared out among the ranks")
    sizes.add_argument("--batch-per-rank", type=count, help="instead: the batch of each rank")
    p.add_argument("--epochs", type=count, help="how often to see all samples (default: 30, or as --steps needs)")
    p.add_argument("--steps", type=count, help="stop after so many steps")


def _add_optimizer(p):
    OPTIMIZER.add(p, late=_late())
    p.add_argument("--lr", type=amount, default=0.007, help="learning rate")
    POLICY.add(p)
    p.add_argument("--warmup", type=natural, default=20, help="steps in which the learning rate rises to its value")


def _add_schedule(p, chosen):
    make.CHOICE.add(p, chosen.get(make.CHOICE.name))
    slowed.add_options(p)


def _add_failures(p):
    p.add_argument("--timeout", type=amount, default=TIMEOUT, metavar="SECONDS",
                   help="end, and say which rank the others wait for, when nothing has moved for so long; 0: never")
    p.add_argument("--check-replicas", type=natural_or("epoch"), default="epoch", metavar="STEPS",
                   help="compare the weights of all ranks every so many steps, or at the end of each epoch; 0: never")
    p.add_argument("--heal", action="store_true",
                   help="give ranks whose weights differ those of the majority and go on, instead of stopping")
    recovery.add_options(p)


def _add_output(p):
    p.add_argument("--out", type=folder, help="folder for run.json and timeline.json, and flight/ while it runs")
    logs.add_options(p)
    p.add_argument("--quiet", action="store_true", help="print nothing but errors")
    p.add_argument("--help", "-h", action="store_true", help="show this and stop")
    config.add_options(p)


def parser(net, chosen=None):
    """All options, with defaults and meaning; `net` is the Choice of nets, `chosen` {a Choice's name: a part's}."""
    chosen = chosen or {}
    p = Parser(prog=PROGRAM, description=PURPOSE, add_help=False, allow_abbrev=False, formatter_class=HelpFormatter,
               usage=f"[mpiexec -n P] {PROGRAM} [options]")
    for title, example, add in (
            ("net", "--net resnet-mini --precision float32", lambda group: _add_net(group, net, chosen)),
            ("data and length", "--data synthetic --shape 32x32x3 --batch 96 --epochs 5", _add_data),
            ("optimizer", "--optimizer adamw --lr 1e-3 --lr-policy cosine --warmup 100", _add_optimizer),
            ("schedule", "--schedule delayed --delay 2", lambda group: _add_schedule(group, chosen)),
            ("messages", "--wire bfloat16 --bucket 1m --progress thread", add_messages),
            ("checkpoints", "--checkpoint saved --checkpoint-every 600s --resume", resuming.add_options),
            ("failures", "--timeout 120 --check-replicas 500", _add_failures),
            ("output and configuration", "--config run.toml --out runs/second --log jsonl", _add_output)):
        add(p.add_argument_group(title, f"as in: {example}"))
    return p


def _schedule_words(argv):
    """argv with --schedule=TEXT as two words."""
    return [part for word in argv for part in (word.split("=", 1) if word.startswith("--schedule=") else [word])]


def _chosen(argv, net):
    """{a Choice's name: the part it is given}; what is the user's own, and must be known before there can be a parser,
    is loaded.
    """
    choices = make.CHOICE, net, DATA
    first = Parser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    for choice in choices:
        first.add_argument(flag(choice.name), default="")
    names = vars(first.parse_known_args(argv)[0])
    names[make.CHOICE.name] = make.words(names[make.CHOICE.name])[1]
    for choice in choices:
        if ":" in names[choice.name]:
            choice.load(names[choice.name], flag(choice.name))
    return names


def _expanded(argv):
    """argv with --schedule NAME:DELAY+OPTION=VALUE as words of its own. Raises UserError for an option given twice."""
    expanded, text, more = [], "", []
    for before, word in pairwise(["", *_schedule_words(argv)]):
        if before == "--schedule":
            text, (_, word, *more) = word, make.words(word)
        expanded.append(word)
    given = [word.split("=")[0] for word in (*expanded, *more)]
    for word in more:
        if word.startswith("--") and given.count(word) > 1:
            raise UserError(f"--schedule {text}: {word} is given twice")
    return expanded + more


def read_options(argv, net, ranks, defaults=()):
    """The options, completed and checked for so many ranks; `net` is the Choice of nets. What argv says takes the place
    of what `defaults`, words of the command line as well, say. Raises UserError.
    """
    words, of_file = config.merged(_expanded(argv), (net, make.CHOICE, DATA, OPTIMIZER, POLICY, WIRE),
                                  _expanded)
    options_parser = parser(net, _chosen([*defaults, *words], net))
    try:
        options_parser.parse_args(of_file)
    except UserError as error:
        raise UserError(f"--config {config.given(words)['config']} | {error}") from None
    options = options_parser.parse_args([*defaults, *words])
    options.given = config.given(words)
    check_messages(options)
    recovery.check(options, ranks)
    ranks -= options.spares
    OPTIMIZER.complete(options, shown=False)
    optim.check(options, flag)
    POLICY.complete(options, shown=False)
    complete_schedule(options, ranks)
    slowed.check(options, ranks)
    device.check(options, make.CHOICE.parts)
    resuming.check(options)
    logs.check(options)
    if options.label_smoothing >= 1:
        raise UserError(f"--label-smoothing {options.label_smoothing}: expected less than 1")
    net.complete(options, shown=False)
    options.data = options.data or net.parts[options.net].data
    workers = ranks - make.CHOICE.parts[options.schedule].servers(**make.CHOICE.keywords(options))
    if options.batch_per_rank:
        options.batch = options.batch_per_rank * workers
    if options.batch < workers:
        raise UserError(f"a batch of {options.batch} is smaller than the {workers} ranks that share it"
                        f" | expected at least one sample a rank | try: --batch {workers}")
    if options.epochs is None and options.steps is None:
        options.epochs = 30
    return options
