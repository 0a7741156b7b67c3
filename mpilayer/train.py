"""Train a network, data-parallel over MPI: `mpiexec -n P python -m mpilayer.train`, or without mpiexec for one rank."""

import socket
import sys
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import nets
from mpilayer import info
from mpilayer.base.cli import flag
from mpilayer.base.errors import AgreedError, UserError
from mpilayer.data import DATA, open_data
from mpilayer.gpu import device
from mpilayer.mpi.agreement import compare
from mpilayer.mpi.job import job, leave
from mpilayer.mpi.ranks import TIMEOUT
from mpilayer.schedules import make
from mpilayer.storage.weights_file import read_weights
from mpilayer.training import config, startup
from mpilayer.training import options as all_options
from mpilayer.training.compute import compute_of
from mpilayer.training.logs import Log
from mpilayer.training.meter import Stragglers
from mpilayer.training.net_choice import NET, made_for
from mpilayer.training.optim import OPTIMIZERS
from mpilayer.training.rates import learning_rate
from mpilayer.training.record import RunRecord
from mpilayer.training.recovery import Recovery, check_trainer
from mpilayer.training.replicas import EQUAL, ReplicaCheck, layer_digests, same_start, versions, who_has
from mpilayer.training.resuming import Resuming
from mpilayer.training.silent import Silent
from mpilayer.training.slowed import slowed
from mpilayer.training.trainer import Trainer, steps_in
from nets import state_dict

AGAIN = 75  # exit status of a run that stopped with a checkpoint: EX_TEMPFAIL, try again
CHOICES = NET, make.CHOICE, all_options.WIRE, all_options.OPTIMIZER


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
    return source, ranks.agree(lambda: made_for(options, source)) if ranks else made_for(options, source)


def make_optimizer(options, parameters, rate):
    """The optimizer that the options name, for a net, or whatever has `layers`."""
    return OPTIMIZERS[options.optimizer](parameters, rate, **all_options.OPTIMIZER.keywords(options))


def make_trainer(ranks, options, settings, data, net, display, resuming, snapshots=None, listeners=()):
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
                      name=options.schedule, requests=resuming.requests(schedule.channel, workers, snapshots),
                      checkpoints=resuming.checkpoints, snapshots=snapshots, notes=resuming.notes(settings),
                      listeners=listeners, block=options.shuffle_block)
    if snapshots:
        ranks.agree(lambda: check_trainer(trainer, options.spares))
    if resuming.checkpoints:
        ranks.agree(schedule.state)  # it may not say what it keeps
    if resuming.loaded:
        trainer.restore(resuming.loaded)
    return trainer


def end_of(trainer):
    """What run.json says of the end of a run."""
    own = trainer.net.weights_sha256()
    return {**{key: trainer.epochs[-1][key] for key in ("test_loss", "test_accuracy")},
            "steps": trainer.steps, "weights_sha256": own, "replicas": who_has(trainer.ranks, own),
            "planned_seconds": trainer.planned, "measured_seconds": trainer.trace.period(),
            "staleness": trainer.staleness(), "resumed": trainer.resumed, **trainer.meter.end(),
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
    make.CHOICE.parts[options.schedule].choose_factors(net)  # kernels are compiled for these
    for remark in data.remarks if ranks.rank == 0 else ():
        say(remark)
    settings = resuming.settings(all_options.settings(options))
    return startup.prepare(ranks, settings, net, options.batch, say, [
        lambda: data.train.read([0], epoch=0), lambda: layer_digests(net),
        lambda: startup.update_once(partial(make_optimizer, options, rate=0.0), net.weights, options.wire)])


def start(ranks, options):
    """The data and the net, the same on all ranks. Raises AgreedError."""
    data, net = load(options, ranks)
    if options.weights:
        recipe = NET.parts[options.net].recipe
        new = ranks.agree(lambda: take(net, read_weights(options.weights), recipe.modules) if ranks.rank == 0 else [])
        data = replace(data, remarks=(*data.remarks, *new))
    same_start(ranks, net, data)
    return data, net


def train(trainer, display, record, resuming, log):
    """All epochs, or those before a signal ends the run; what run.json says of the end, or None."""
    for line in resuming.said():
        display.say(line)
        record.epochs(trainer.epochs)
    with trainer.requests.listening():
        for _ in trainer.run():
            record.epochs(trainer.epochs)
            log.epoch(trainer.step_now, trainer.epochs[-1])
    resuming.close()
    final = None
    if trainer.stopped:
        display.say(f"stopped by a signal after {trainer.step_now} steps; to go on: --resume")
    else:
        final = end_of(trainer)
        display.end(trainer.epochs, trainer.seconds, final, trainer.trace.beside)
    trainer.close()
    return final


class Begun(NamedTuple):
    """What a rank has when training begins."""

    data: object
    net: object
    record: RunRecord
    resuming: Resuming
    settings: object


def begin(ranks, options, recovery, say):
    """Begun, on the ranks that compute from the start on. Raises AgreedError."""
    if options.device == "gpu":
        ranks.agree(lambda: device.use(ranks, options))
    data, net = start(ranks, options)
    record = RunRecord(ranks, options, lambda: info.environment(ranks))
    resuming = Resuming(ranks, options, CHOICES, net, data, say)
    settings = prepared(ranks, options, data, net, resuming, say)
    record.head["measured"] = config.measured(settings)
    facts = info.environment(ranks) if options.config else None
    for line in config.differences(options.config, facts) if ranks.rank == 0 else ():
        say(line)
    recovery.shared = settings, record.head
    return Begun(data, net, record, resuming, settings)


def stand_in(ranks, options, recovery, say):
    """Begun, on a rank that waits, when it takes the place of one that has died; None if all is over before."""
    loaded = recovery.stand_by()
    if loaded is None:
        return None
    (settings, head), (data, net) = recovery.shared, load(options, None)
    record = RunRecord.of_another(ranks, options.out, head)
    return Begun(data, net, record, Resuming(ranks, options, CHOICES, net, data, say, loaded), settings)


def display_of(ranks, options):
    """What rank 0 shows."""
    if ranks.rank > 0:
        return Silent()
    from mpilayer.training.display import Display

    return Display(ranks, batch=options.batch, quiet=options.quiet)


def lead(ranks, options, begun, recovery):
    """(Trainer, what run.json says of the end or None) of a run that is not interrupted by deaths."""
    data, net, record, resuming, settings = begun
    names = (options.log or ()) if ranks.rank == 0 else ()
    with (display_of(ranks, options) as display,
          Log(names, options.out, resuming.run.get("step", 0), len(resuming.run.get("resumed", ()))) as log):
        with device.room("gradients and what an optimizer keeps"):
            trainer = make_trainer(
                ranks, options, settings, data, net, display, resuming, recovery.snapshots,
                listeners=[Stragglers(ranks.gather_to_first(socket.gethostname()), display.say), log])
        display.begin(options.net, net, data, make.CHOICE.shown(options), trainer.steps,
                      device.said(options, trainer.channel.description))
        ranks.timeout = options.timeout
        return trainer, train(trainer, display, record, resuming, log)


def run(ranks, argv):
    """The whole job; its exit status."""
    options = read(ranks, argv)
    if options.help:
        if ranks.rank == 0:
            all_options.parser(NET).print_help()
        return 0
    ranks.timeout = options.timeout and max(options.timeout, TIMEOUT)  # compiling may take long

    def say(text):
        if not options.quiet:
            print(text, flush=True)

    recovery = Recovery(ranks, options)
    begun = (stand_in if ranks.waits else begin)(ranks, options, recovery, say)
    if begun is None:
        return 0
    while True:
        try:
            trainer, final = lead(ranks, options, begun, recovery)
            recovery.all_is_done()
            break
        except ranks.MPI.Exception as error:
            if not recovery.bears(error):
                raise
            begun = begun._replace(resuming=begun.resuming.again(recovery.after(begun.net)))
    return end(ranks, options, begun, trainer, final, recovery)


def end(ranks, options, begun, trainer, final, recovery):
    """The exit status, when all has been written. Raises AgreedError if the ranks have different weights."""
    data, net, record, *_ = begun
    data.close()
    if final is None:
        record.leave()
        return AGAIN
    final["deaths"] = recovery.deaths
    try:
        record.end(trainer.epochs, final, trainer.trace, net, about(options, net, data, final))
    except ranks.MPI.Exception as error:
        if not recovery.bears(error):
            raise
        ranks.part()
        record.salvage(trainer.epochs, final, net, about(options, net, data, final))
    if final["replicas"] != EQUAL:
        raise AgreedError(f"the ranks ended with {len(final['replicas'])} different sets of weights | expected one"
                          " | try: --check-replicas with fewer steps, to find where they begin to differ")
    return 0


def main(argv=None):
    """Entry point."""
    argv = sys.argv[1:] if argv is None else argv
    with job() as ranks:
        status = run(ranks, argv)
    leave(ranks, status)


if __name__ == "__main__":
    main()
