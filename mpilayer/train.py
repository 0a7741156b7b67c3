"""Train a network, data-parallel over MPI: `mpiexec -n P python -m mpilayer.train`, or without mpiexec for one rank."""

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

import nets
from mpilayer import info
from mpilayer.base.cli import Choice, Option, amount, flag, number
from mpilayer.base.errors import AgreedError, UserError
from mpilayer.data import DATA, batches, open_data, samples_of
from mpilayer.gpu import device
from mpilayer.mpi.agreement import compare
from mpilayer.mpi.job import job
from mpilayer.mpi.ranks import TIMEOUT
from mpilayer.schedules import make
from mpilayer.schedules.shards import Part
from mpilayer.storage.weights_file import read_weights
from mpilayer.training import options as all_options
from mpilayer.training import report, startup
from mpilayer.training.compute import compute_of
from mpilayer.training.optim import OPTIMIZERS
from mpilayer.training.rates import learning_rate
from mpilayer.training.record import RunRecord
from mpilayer.training.replicas import ReplicaCheck, layer_digests, same_start, versions
from mpilayer.training.resuming import Resuming
from mpilayer.training.straggler import slowed
from mpilayer.training.trainer import Trainer, steps_in
from nets import state_dict

AGAIN = 75  # exit status of a run that stopped with a checkpoint: EX_TEMPFAIL, try again
EQUAL = "equal"  # what run.json says of the weights of all ranks
SIZE = number(int, 1, "a positive whole number", 65_536)
TYPES = {int: SIZE, float: amount, bool: bool, str: str}  # of sizes of nets, by what their defaults are


class NetPart(NamedTuple):
    """A net as the command line offers it: its Recipe, its sizes as Options, and data that it takes."""

    recipe: nets.Recipe
    options: tuple
    data: str


def _size(name, what, default):
    """The Option of a size of a net; a default that no option can have stays with the net."""
    kind = type(default)
    if kind not in TYPES:
        return Option(name, what, SIZE)
    if kind in (int, float) and default <= 0:
        return Option(name, what, number(kind, default, f"a number, at least {default}"), default)
    return Option(name, what, TYPES[kind], default)


def _part(blocks):
    try:
        recipe = nets.recipe_of(blocks)
    except ValueError as error:
        raise UserError(f"--net: {error}") from None
    defaults = recipe.defaults
    sizes = tuple(_size(name, what, defaults.get(name)) for name, what in dict(recipe.sizes).items())
    return NetPart(recipe, sizes, DATA.default_for(recipe.shape))


NET = Choice("net", {name: _part(recipe) for name, recipe in nets.NETS.items()}, "alexnet-mini", "what to train", _part)


def _fits(net, shape, source):
    """Raise UserError for a net of images and data of tokens, or the other way round."""
    wanted, got = samples_of(shape), samples_of(source.shape)
    if wanted not in (got, None):
        raise UserError(f"{net} takes {wanted}, {source.name} has {got}"
                        f" | try: --data {DATA.default_for(shape)}, or another --net")


def _made(options, source):
    """The net for these samples. Raises UserError."""
    where = {name: getattr(options, name) for name in ("device", "precision", "seed")}
    sizes = {name: value for name, value in NET.keywords(options).items() if value is not None}
    try:
        with device.room(f"the weights of {options.net}"):
            return nets.build(NET.parts[options.net].recipe, classes=source.classes, shape=source.shape, **where,
                              **sizes)
    except nets.ShapeError as error:
        raise UserError(f"{options.net} cannot take samples of {source.shape} from {source.name}: {error}"
                        " | try: larger ones, or another --net") from None
    except ValueError as error:
        raise UserError(f"--net {options.net}: {error}") from None


def _checked(options, source):
    """The net for a source. Raises UserError."""
    batches(len(source.train), options.batch, seed=options.seed, epoch=0)  # says if there are too few samples
    _fits(options.net, NET.parts[options.net].recipe.shape, source)
    try:
        return _made(options, source)
    except MemoryError as error:
        raise UserError(f"not enough memory for {options.net} on {options.data}: {error}"
                        " | try: a smaller --shape or --net, or fewer ranks on a machine") from None


def take(net, weights, modules=None):
    """Give a net the arrays of Weights; what is new all the same, in words. `modules` is that of the net's Recipe.
    Raises UserError for weights of another net.
    """
    try:
        found = state_dict.from_state_dict(net, weights.arrays, modules) if weights.is_state_dict else weights.arrays
        new = state_dict.take(net, found)
    except nets.ShapeError as error:
        raise UserError(f"{weights.path} | {error} | try: the net and the sizes that it was made with") from None
    return [f"{name} is new: in {weights.path} it is for other classes" for name in new]


def load(options, ranks):
    """The data and the net; all ranks, or None, call this together. Raises AgreedError on all of them."""
    recipe = NET.parts[options.net].recipe
    source = open_data(options.data, ranks=ranks, like=(recipe.shape, recipe.classes), **form(options))
    return source, ranks.agree(lambda: _checked(options, source)) if ranks else _checked(options, source)


def make_optimizer(options, parameters, rate):
    """The optimizer that the options name, for a net, or whatever has `layers`."""
    return OPTIMIZERS[options.optimizer](parameters, rate, **all_options.OPTIMIZER.keywords(options))


def update_once(options, weights):
    """One update of one weight, which lies where `weights` do: so its kernel is compiled."""
    layer = Part("a layer", *np.zeros_like(weights, shape=(2, 1)))
    optimizer = make_optimizer(options, SimpleNamespace(layers=[layer]), 0.0)
    optimizer.attach(optimizer.trace, lambda step: 1.0).update(layer, layer.g, step=0)


def make_trainer(ranks, options, settings, data, net, display, resuming):
    """Everything that trains, as the options say."""
    per_epoch, steps = steps_in(len(data.train), options.batch, options.epochs, options.steps)
    compute, arguments = compute_of(net), make.CHOICE.keywords(options)
    for loss in net.losses:
        loss.smoothing = options.label_smoothing
    rate = learning_rate(options.lr, steps, options.lr_policy, options.warmup,
                         **all_options.POLICY.keywords(options))
    optimizer = make_optimizer(options, net, rate)
    trace = compute.trace()
    seen = slowed(net, ranks.rank, options.slow, options.jitter, lambda seconds: schedule.channel.rest(seconds))
    schedule = make.make_schedule(options.schedule, seen, ranks, optimizer, settings=settings, trace=trace,
                                  say=display.say, **arguments)
    workers = ranks.size - make.CHOICE.parts[options.schedule].servers(**arguments)
    every = {"epoch": 0, 0: None}.get(options.check_replicas, options.check_replicas)
    replicas = ReplicaCheck(options.schedule, ranks, net, schedule.channel, display.say, every,
                            optimizer if options.heal else None)
    trainer = Trainer(ranks, schedule, net, data, compute, display, replicas, batch=options.batch, steps=steps,
                      per_epoch=per_epoch, seed=options.seed, workers=workers, statistics=options.batch_statistics,
                      name=options.schedule, requests=resuming.requests(schedule.channel, workers),
                      checkpoints=resuming.checkpoints, notes=resuming.notes(settings))
    if resuming.checkpoints:
        ranks.agree(schedule.state)  # it may not say what it keeps
    if resuming.loaded:
        trainer.restore(resuming.loaded)
    return trainer


def end_of(trainer):
    """What run.json says of the end of a run; `replicas` is EQUAL, or {SHA-256 of weights: ranks that have them}."""
    having, own = {}, trainer.net.weights_sha256()
    for rank, each in enumerate(trainer.ranks.gather(own)):
        having.setdefault(each, []).append(rank)
    return {**{key: trainer.epochs[-1][key] for key in ("test_loss", "test_accuracy")},
            "steps": trainer.steps, "weights_sha256": own, "replicas": EQUAL if len(having) == 1 else having,
            "planned_seconds": trainer.planned, "measured_seconds": trainer.trace.period(),
            "staleness": trainer.staleness(), "resumed": trainer.resumed,
            **({"gradients": trainer.channel.description} if trainer.channel.description else {})}


def form(options):
    """The keyword arguments of open_data that the options ask for."""
    return {name: getattr(options, name) for name in ("augment", "validation", "seed", *DATA.option_names())}


def about(options, net, data, final):
    """What weights.h5 says of the weights."""
    return {"net": options.net, "sizes": {name: value for name, value in NET.keywords(options).items()
                                          if value is not None},
            "classes": net.classes, "shape": net.shape, "precision": options.precision, "data": options.data,
            "samples": form(options),
            **{name: final[name] for name in ("steps", "test_loss", "test_accuracy", "weights_sha256")}}


def read(ranks, argv):
    """The options, the same on all ranks. Raises AgreedError."""
    ranks.agree(info.kernel_settings)
    options = ranks.agree(lambda: all_options.read_options(argv, NET, ranks.size))
    compare(ranks, {flag(name): value for name, value in vars(options).items()}, "one command line for all ranks")
    compare(ranks, versions(ranks), "one environment for all hosts")
    return options


def prepared(ranks, options, data, net, resuming, say):
    """The Settings; everything that training calls is compiled."""
    for remark in data.remarks if ranks.rank == 0 else ():
        say(remark)
    settings = resuming.settings(all_options.settings(options))
    return startup.prepare(ranks, settings, net, options.batch, say, [
        lambda: data.train.read([0], epoch=0), lambda: update_once(options, net.weights), lambda: layer_digests(net)])


def start(ranks, options):
    """The data and the net, the same on all ranks. Raises AgreedError."""
    data, net = load(options, ranks)
    if options.weights:
        recipe = NET.parts[options.net].recipe
        new = ranks.agree(lambda: take(net, read_weights(options.weights), recipe.modules) if ranks.rank == 0 else [])
        data = replace(data, remarks=(*data.remarks, *new))
    same_start(ranks, net, data)
    return data, net


def train(trainer, display, record, resuming):
    """All epochs, or those before a signal ends the run; what run.json says of the end, or None."""
    for line in resuming.said():
        display.say(line)
        record.epochs(trainer.epochs)
    with trainer.requests.listening():
        for _ in trainer.run():
            record.epochs(trainer.epochs)
    resuming.close()
    final = None
    if trainer.stopped:
        display.say(f"stopped by a signal after {trainer.step_now} steps; to go on: --resume")
    else:
        final = end_of(trainer)
        display.end(trainer.epochs, trainer.seconds, final, trainer.trace.beside)
    trainer.close()
    return final


def run(ranks, argv):
    """The whole job; its exit status."""
    options = read(ranks, argv)
    if options.help:
        if ranks.rank == 0:
            all_options.parser(NET).print_help()
        return 0
    if options.device == "gpu":
        ranks.agree(lambda: device.use(ranks, options))
    ranks.timeout = options.timeout and max(options.timeout, TIMEOUT)  # compiling may take long
    data, net = start(ranks, options)
    record = RunRecord(ranks, options, lambda: info.environment(ranks))

    def say(text):
        if not options.quiet:
            print(text, flush=True)

    parts = NET, make.CHOICE, all_options.WIRE, all_options.OPTIMIZER
    resuming = Resuming(ranks, options, parts, net, data, say)
    settings = prepared(ranks, options, data, net, resuming, say)
    with report.Display(ranks, batch=options.batch, quiet=options.quiet) as display:
        with device.room("gradients and what an optimizer keeps"):
            trainer = make_trainer(ranks, options, settings, data, net, display, resuming)
        display.begin(options.net, net, data, make.CHOICE.shown(options), trainer.steps,
                      device.said(options, trainer.channel.description))
        ranks.timeout = options.timeout
        final = train(trainer, display, record, resuming)
    data.close()
    if final is None:
        record.leave()
        return AGAIN
    record.end(trainer.epochs, final, trainer.trace, net, about(options, net, data, final))
    if final["replicas"] != EQUAL:
        raise AgreedError(f"the ranks ended with {len(final['replicas'])} different sets of weights | expected one"
                          " | try: --check-replicas with fewer steps, to find where they begin to differ")
    return 0


def main(argv=None):
    """Entry point."""
    argv = sys.argv[1:] if argv is None else argv
    with job() as ranks:
        status = run(ranks, argv)
    sys.exit(status)


if __name__ == "__main__":
    main()
