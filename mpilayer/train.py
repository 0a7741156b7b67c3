"""Train a network, data-parallel over MPI: `mpiexec -n P python -m mpilayer.train`, or without mpiexec for one rank."""

import json
import sys
import threading
from pathlib import Path

import numpy as np
from numba.core import event

import kernels
import nets
from kernels import gpu
from mpilayer import info
from mpilayer.base.errors import UserError
from mpilayer.base.files import replacing
from mpilayer.base.tracing import write_timeline
from mpilayer.data import batches, open_data
from mpilayer.exchange import probe
from mpilayer.gpu import device
from mpilayer.mpi import ranks as comm
from mpilayer.training import report
from mpilayer.training.options import SIZES, parser, read_options
from mpilayer.training.trainer import Batch, Trainer

TOLD = 3  # seconds after which compiling for a GPU is worth a word


def _unwritable(path, error):
    return UserError(f"cannot write to the output folder {path} ({error.strerror}) | try: another --out")


def prepare_folder(path):
    """Make the output folder and see that files can be written there. Raises UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(path, error) from None


def _fits(net, shape, source):
    """Raise UserError for a net of images and data of tokens, or the other way round."""
    if len(shape) != len(source.shape):
        kinds = {3: "images", 1: "tokens"}
        raise UserError(f"{net} takes {kinds[len(shape)]}, {source.name} has {kinds[len(source.shape)]}"
                        f" | try: --data {'digits' if len(shape) == 3 else 'text'}, or another --net")


def load(options, ranks):
    """The data and the net. Raises UserError."""
    _, shape, classes = nets.NETS[options.net]
    form = {key: getattr(options, key) for key in ("shape", "classes", "context", "augment", "validation", "seed")}
    if options.data == "synthetic":
        form |= {"shape": options.shape or shape, "classes": options.classes or classes}
    if options.data.startswith("text"):
        form |= {"context": options.context or shape[0]}
    sizes = {name: getattr(options, name) for name in SIZES if getattr(options, name)}
    place = {name: getattr(options, name) for name in ("device", "precision", "seed")}
    try:
        source = open_data(options.data, ranks=ranks, **form)
        batches(len(source.train), options.batch, seed=options.seed, epoch=0)  # says if there are too few samples
        _fits(options.net, shape, source)
        with device.room(f"the weights of {options.net}"):
            return source, nets.build(options.net, classes=source.classes, shape=source.shape, **place, **sizes)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{options.net} cannot take samples of {source.shape} from {source.name}: {error}"
                        " | try: larger ones, or another --net") from None
    except MemoryError as error:
        raise UserError(f"not enough memory for {options.net} on {options.data}: {error}"
                        " | try: a smaller --shape or --net, or fewer ranks on a machine") from None


def first_step(net, size):
    """Forward, backward and updates on so many random samples; weights and state stay as they are."""
    state = net.state.copy()
    for _ in (*net.forward(Batch(*net.example(size, np.random.default_rng(0)), size)), *net.backward()):
        pass
    net.state[:] = state
    w, *rest = np.zeros_like(net.weights, shape=(4, 1))
    kernels.momentum_update(w, *rest[:2], lr=0)
    kernels.adamw_update(w, *rest, lr=0, step=1)


def warm_gpu(ranks, net, say, size, also):
    """As `warm`, by a step on as many samples as a rank will have; then the other ranks load what they find on disk."""
    def compiled():
        telling = threading.Timer(TOLD, say, ["compiling the kernels for this GPU, once on this machine"])
        telling.start()
        try:
            loaded()
        finally:
            telling.cancel()

    def loaded():
        with device.room(f"a batch of {size} on each rank"):
            first_step(net, size)
            also()

    ranks.agree(compiled if ranks.node.rank == 0 else lambda: None)
    ranks.agree(loaded if ranks.node.rank > 0 else lambda: None)


def warm(ranks, net, say, also=lambda: None):
    """Compile the kernels by one step on one sample, then also(): one rank a node does, others find them on disk.
    """
    class Announce(event.Listener):
        told = False

        def on_start(self, _):
            if not self.told:
                self.told = True
                waiting = f"; {ranks.node.size - 1} ranks wait" if ranks.node.size > 1 else ""
                say(f"compiling the kernels, once on this machine (about half a minute){waiting}")

        def on_end(self, _):
            pass

    if ranks.node.rank == 0:
        with event.install_listener("numba:compile", Announce()):
            first_step(net, 1)
            also()
    ranks.meet_after(ranks.node)


def save(folder, ranks, trainer, epochs, final):
    """run.json and timeline.json, each whole or not at all."""
    config = {key: str(value) if isinstance(value, Path) else value for key, value in vars(trainer.options).items()}
    record = {"config": config, "environment": info.environment(ranks), "epochs": epochs, "final": final}
    try:
        write_timeline(folder / "timeline.json", ranks, trainer.trace)
        if ranks.rank == 0:
            with replacing(folder / "run.json") as file:
                json.dump(record, file, indent=1)
    except OSError as error:
        raise _unwritable(folder, error) from None


def prepare(ranks, options, data, net, say):
    """Compile what will be needed; the settings of messages."""
    def also():
        probe.warm(options, net.weights)
        data.train.read([0], epoch=0)

    on_gpu = gpu.is_array(net.weights)
    if on_gpu:
        warm_gpu(ranks, net, say, max(1, options.batch // ranks.size), also)
    else:
        warm(ranks, net, say, also)
    return probe.choose(ranks, options, net.weights.nbytes, say if ranks.rank == 0 else lambda _: None, on_gpu)


def run(ranks, argv):
    """The whole job."""
    ranks.agree(info.kernel_settings)
    options = ranks.agree(lambda: read_options(argv, nets.NETS, ranks.size))
    if options.help:
        if ranks.rank == 0:
            parser(nets.NETS).print_help()
        return
    if options.device == "gpu":
        ranks.agree(lambda: device.use(ranks, options))
    data, net = ranks.agree(lambda: load(options, ranks))
    if options.out:
        ranks.agree(lambda: prepare_folder(options.out) if ranks.rank == 0 else None)

    def say(text):
        if not options.quiet:
            print(text, flush=True)

    settings = prepare(ranks, options, data, net, say)
    with report.Display(ranks, options) as display:
        with device.room("gradients and what an optimiser keeps"):
            trainer = ranks.agree(lambda: Trainer(ranks, options, settings, data, net, display))
        display.begin(net, data, trainer.steps, device.said(options, trainer.traffic.how))
        epochs = trainer.run()
        final = {**{key: epochs[-1][key] for key in ("test_loss", "test_accuracy")},
                 "steps": trainer.steps, "weights_sha256": net.weights_sha256(), "planned_seconds": trainer.planned,
                 "measured_seconds": trainer.trace.period(), "staleness": trainer.staleness(),
                 **({"gradients": trainer.traffic.how} if trainer.on_gpu else {})}
        display.end(epochs, trainer.seconds, final, ranks.gather(final["weights_sha256"]), trainer.trace.beside)
        trainer.close()
    data.close()
    if options.out:
        save(options.out, ranks, trainer, epochs, final)


def main(argv=None):
    """Entry point."""
    argv = sys.argv[1:] if argv is None else argv
    with comm.job() as ranks:
        run(ranks, argv)


if __name__ == "__main__":
    main()
