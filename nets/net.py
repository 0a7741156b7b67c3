"""A net: blocks, and the flat memory of their layers. The two generators are all that a schedule knows of it."""

import hashlib
from collections import Counter
from functools import partial

import numpy as np

from kernels.gpu import fetch
from kernels.layout import offsets
from nets.blocks import Loss
from nets.composite import Sequence
from nets.layer import Layer
from nets.memory import Memory
from nets.replay import Replay


def walk(block):
    """The block and all that it is made of, in forward order."""
    yield block
    for part in getattr(block, "blocks", ()):
        yield from walk(part)


def first_layer(block):
    """The layer that reads the samples, or None if that is within blocks that add up or join gradients."""
    while type(block) is Sequence:
        block = next((part for part in block.blocks if any(isinstance(each, Layer) for each in walk(part))), None)
    return block if isinstance(block, Layer) else None


def _result(generator):
    """What it returns."""
    try:
        while True:
            next(generator)
    except StopIteration as end:
        return end.value


def _once(layers):
    """The layers. Raises ValueError if two of them have one name, and thus one place in memory."""
    name, count = Counter(layer.name for layer in layers).most_common(1)[0] if layers else ("", 0)
    if count > 1:
        raise ValueError(f"two layers are called {name!r}: expected a name of its own for each")
    return layers


class Net:
    """A net: layers in flat memory, and two generators, forward and backward.

    body        the block that the net is made of, usually a nets.composite.Sequence
    shape       of a sample: (H,W,C) of images, (T,) of tokens
    memory      nets.memory.Memory: whether all arrays, also batches, are NumPy's or lie on a GPU
    seed        of the initial weights

    classes     number of classes
    layers      the layers, in the order in which forward reads them
    weights     (n,) float32, layers in the opposite order, that in which backward finishes them
    offsets     {layer's name: (begin, end)} in flat memory; each layer begins a cache line
    gradients   list of gradient buffers, each as `weights`; write_gradients_to chooses the one that backward writes
    state       (m,) float64, running statistics of this rank; evaluation uses their mean over the ranks
    replay      nets.replay.Replay of a net on a GPU whose blocks are all of this package: the same in every step;
                None: every kernel is launched anew in each step

    Raises ValueError for two layers of one name, ShapeError for samples that the body cannot take.
    """

    def __init__(self, body, shape, memory=None, seed=0):
        self.body, self.shape, self.memory = body, tuple(shape), memory or Memory()
        self.classes = body.build(self.shape)[-1]
        self.layers = _once([b for b in walk(body) if isinstance(b, Layer)])
        self.losses = [b for b in walk(body) if isinstance(b, Loss)]
        if first := first_layer(body):
            first.input_gradient = False
        self.offsets, self._floats = offsets({layer.name: layer.size for layer in self.backward_layers})
        self.weights, self._rounded, self.gradients, self._bound = self._initial(seed), None, [], []
        for layer, piece in self._pieces(self.weights):
            layer.bind_weights(piece)
            layer.activations = self.memory.activations
        self.state = self._initial_state()
        self.write_gradients_to(0)
        self.replay = self._recorded() if self.memory.on_gpu else None

    def _initial(self, seed):
        """The weights as drawn: here, so that they are the same everywhere."""
        drawn = Memory().zeros(self._floats)
        for layer, piece in self._pieces(drawn):
            layer.bind_weights(piece)
        for number, layer in enumerate(self.layers):
            layer.initialise(np.random.default_rng([seed, number]))
        return self.put(drawn)

    def _initial_state(self):
        ends = np.cumsum([0, *(layer.state_size for layer in self.layers)]).tolist()
        state = self.put(np.zeros(ends[-1]))
        for layer, begin, end in zip(self.layers, ends[:-1], ends[1:], strict=True):
            layer.bind_state(state[begin:end])
        return state

    def _recorded(self):
        blocks = list(walk(self.body))
        if any(type(block).__module__.split(".")[0] != __package__ for block in blocks):
            return None
        return Replay(self.body, blocks, self.losses, self.memory.flowing)

    def round_weights(self):
        """From here on let products read weights in bfloat16, if activations are that: whoever changes the weights
        writes these, too, as optimizers do, or calls this again. Otherwise every pass rounds them anew.
        """
        if not self.memory.rounds:
            return
        if self._rounded is None:
            self._rounded = self.memory.zeros(self._floats, self.memory.activations)
            for layer, piece in self._pieces(self._rounded):
                layer.bind_rounded(piece)
        self._rounded[:] = self.weights

    def forget_rounded(self):
        """From here on let products read the weights themselves, and layers write gradients in float32."""
        self.round_gradients({})
        self._rounded = None
        for layer in self.layers:
            layer.bind_rounded(None)

    def put(self, array):
        """A NumPy array, such as a batch's, where the net computes."""
        return self.memory.put(array)

    def example(self, size, rng):
        """(x, y) of `size` random samples: images of normal numbers and classes, or tokens and the next tokens."""
        if len(self.shape) == 3:
            x, y = rng.standard_normal((size, *self.shape), np.float32), rng.integers(0, self.classes, size)
        else:
            x, y = rng.integers(0, self.classes, (2, size, *self.shape))
        return self.put(x), self.put(y)

    @property
    def backward_layers(self):
        """The layers in the order of backward, which is that of memory."""
        return self.layers[::-1]

    @property
    def size(self):
        """Number of parameters."""
        return sum(layer.size for layer in self.layers)

    def _pieces(self, flat):
        for layer in self.backward_layers:
            yield layer, flat[slice(*self.offsets[layer.name])]

    def gradient_buffer(self, slot):
        """Gradient buffer number `slot`, (n,) float32; a new buffer is made when it is first asked for."""
        while len(self.gradients) <= slot:
            self.gradients.append(self.memory.zeros(self._floats))
            self._bound.append([(layer, layer.gradient_in(piece)) for layer, piece in self._pieces(self.gradients[-1])])
        return self.gradients[slot]

    def round_gradients(self, places):
        """Let layers that can write gradients in bfloat16 do so where there is a place: {slot: {name: (size,) uint16}}.

        All other gradients are float32 in their buffers. Returns the names of the layers that can.
        """
        able = {layer.name for layer in self.layers if layer.rounds_gradient} if self.memory.rounds else set()
        for slot, flat in enumerate(self.gradients):
            given = {name: place.view(self.memory.activations) for name, place in places.get(slot, {}).items()
                     if name in able}
            self._bound[slot] = [(layer, layer.gradient_in(given.get(layer.name, piece)))
                                 for layer, piece in self._pieces(flat)]
        self.write_gradients_to(self.slot)
        return able

    def forget_gradients(self):
        """Make all gradient buffers anew: something else may still write to those there are."""
        self.gradients, self._bound = [], []
        self.write_gradients_to(0)

    def write_gradients_to(self, slot):
        """Let backward write into gradient buffer number `slot` from here on."""
        self.gradient_buffer(slot)
        self.slot = slot
        for layer, gradient in self._bound[slot]:
            layer.bind_gradient(gradient)

    def forward(self, batch):
        """Compute the loss of a Batch; a generator that yields each layer just before its weights are read.

        When it has ended, `loss` and `logits` are there.
        """
        if self.replay:
            yield from self.replay.forward(batch)
        else:
            yield from self.body.forward(self.memory.flowing(batch.x), batch)

    def backward(self):
        """Compute all gradients; a generator that yields each layer as soon as its gradient `g` is final."""
        yield from self.replay.backward(self.slot) if self.replay else self.body.backward(None)

    def trials(self, batch):
        """Functions that each run one block of the body forward and backward, the first one on the samples of a Batch,
        the others on zeros. Together they need the kernels that a step needs; their order does not matter.
        """
        blocks, shapes = (self.body.blocks, self.body.shapes) if type(self.body) is Sequence else ([self.body], [()])
        zeros = [self.put(np.zeros((len(batch.x), *shape), np.float32)) for shape in shapes[1:]]
        return [partial(self._trial, block, x, batch) for block, x in zip(blocks, (batch.x, *zeros), strict=True)]

    def _trial(self, block, x, batch):
        state = self.state.copy()
        try:
            y = _result(block.forward(self.memory.flowing(x), batch))
            _result(block.backward(np.zeros_like(y)))
        finally:
            self.state[:] = state

    @property
    def logits(self):
        """Output of the last forward, (N,classes) float32."""
        return self.losses[-1].logits.astype(np.float32, copy=False)

    @property
    def loss(self):
        """This rank's part of the mean loss of the last effective batch; the sum over the ranks is the mean.

        On a GPU it is an array there: float(net.loss) waits for it.
        """
        return sum(loss.loss for loss in self.losses)

    def first_not_finite(self):
        """(layer, "weights" or "output") where the last forward first met a NaN or an infinity; None if nowhere."""
        for layer in self.layers:
            for what, values in (("weights", layer.w), ("output", getattr(layer, "y", layer.w))):
                if not np.isfinite(fetch(values)).all():
                    return layer, what
        return None

    @property
    def arrays(self):
        """{name: view} of all that evaluation needs: of each layer its parameters, as in conv1/weight, float32, and its
        running statistics, float64.
        """
        return {f"{layer.name}/{part}": array for layer in self.layers
                for part, array in {**layer.weight, **layer.statistics}.items()}

    def weights_sha256(self):
        """SHA-256 of all weights, layer by layer in the order of forward, in hexadecimal."""
        digest = hashlib.sha256()
        for layer in self.layers:
            digest.update(fetch(layer.w))
        return digest.hexdigest()
