"""A net's arrays as a PyTorch net of the same layers has them: other names, channels first, dense weights turned."""

from typing import NamedTuple

import numpy as np

from kernels.gpu import fetch
from nets.blocks import Flatten, Loss
from nets.composite import Sequence
from nets.conv_norm import ConvNorm
from nets.layer import Dense, Embedding, Layer
from nets.net import walk
from nets.shapes import ShapeError

AXES = {4: (3, 2, 0, 1), 2: (1, 0)}  # of our weights, in PyTorch's order: RSCK to KCRS, CK to KC
NORM = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var",
        "steps": "num_batches_tracked"}


class Entry(NamedTuple):
    """An array of ours, and PyTorch's name of it.

    axes    of ours, in PyTorch's order          image   (H,W,C) of which a dense layer reads the pixels, or None
    """

    name: str
    array: np.ndarray
    torch: str
    axes: tuple
    image: tuple | None

    @property
    def shape(self):
        """PyTorch's, () of a counter."""
        return () if self.torch.endswith("num_batches_tracked") else tuple(self.array.shape[axis] for axis in self.axes)

    def exported(self):
        """The array as PyTorch has it, contiguous: float32, or int64 of a counter."""
        array = fetch(self.array)
        if self.shape == ():
            return np.array(round(float(array[0])), np.int64)
        if self.image:
            array = array.reshape(*self.image, -1).transpose(2, 0, 1, 3).reshape(array.shape)
        return np.ascontiguousarray(array.transpose(self.axes), np.float32)

    def imported(self, array):
        """PyTorch's array as we have it."""
        if self.shape == ():
            return np.array([array], np.float64)
        array = np.asarray(array).transpose(np.argsort(self.axes))
        if self.image:
            H, W, C = self.image
            array = array.reshape(C, H, W, -1).transpose(1, 2, 0, 3).reshape(array.shape)
        return array.astype(self.array.dtype)


def images_flattened(net):
    """{name of a dense layer: (H,W,C) of the image that it reads pixel by pixel}."""
    found = {}
    for block in walk(net.body):
        parts = block.blocks if isinstance(block, Sequence) else ()
        for number, part in enumerate(parts):
            after = next((each for each in parts[number + 1:] if isinstance(each, Dense)), None)
            if isinstance(part, Flatten) and after:
                found[after.name] = block.shapes[number]
    return found


def _module_names(layer, modules):
    """Of a layer's own module, and of its batch normalization."""
    if modules:
        return modules(layer.name)
    name = layer.name.replace("/", ".")
    return (f"{name}.conv", f"{name}.norm") if isinstance(layer, ConvNorm) else (name, name)


def entries(net, modules=None):
    """An Entry for each array of a net; `modules` is that of its Recipe."""
    images, found = images_flattened(net), []
    for layer in net.layers:
        own, norm = _module_names(layer, modules)
        for part, array in {**layer.weight, **layer.statistics}.items():
            if isinstance(layer, Embedding):
                torch, axes = f"{own}.{part}.weight", (0, 1)
            else:
                torch = f"{norm}.{NORM[part]}" if part in NORM else f"{own}.{part}"
                axes = AXES.get(array.ndim, (0,))
            image = images.get(layer.name) if part == "weight" else None
            found.append(Entry(f"{layer.name}/{part}", array, torch, axes, image))
    return found


def state_dict(net, modules=None):
    """{PyTorch's name: array} of a net, as load_state_dict of a PyTorch net of the same layers takes it. A layer's name
    is its module's, with dots for slashes, unless `modules` (of the net's Recipe) gives torchvision's.
    """
    return {entry.torch: entry.exported() for entry in entries(net, modules)}


def from_state_dict(net, found, modules=None):
    """{our name: array} of a PyTorch state dict of arrays. Raises ShapeError, which names the first array that is not
    of the net, or is missing, or whose shape is another (but for layers of classes, heads()).
    """
    known = {entry.torch: entry for entry in entries(net, modules)}
    for name in found:
        if name not in known:
            raise ShapeError(f"{name}: the net has no such array")
    wide = {f"{name}/" for name in heads(net)}
    arrays = {}
    for name, entry in known.items():
        if name not in found and entry.shape != ():
            raise ShapeError(f"{name}: missing")
        array = found.get(name, 0)
        if np.shape(array) != entry.shape and not any(entry.name.startswith(each) for each in wide):
            raise ShapeError(f"{name}: shape {np.shape(array)}, expected {entry.shape}")
        arrays[entry.name] = entry.imported(array)
    return arrays


def heads(net):
    """Names of the layers that make the logits: the last one, and those of auxiliary classifiers."""
    found = []
    for block in walk(net.body):
        parts = block.blocks if isinstance(block, Sequence) else ()
        if parts and isinstance(parts[-1], Loss):
            layers = [each for part in parts for each in walk(part) if isinstance(each, Layer)]
            found.append(layers[-1].name)
    return found


def take(net, found):
    """Give a net the arrays {our name: array}; names of the layers that keep theirs, for their classes are others.

    Raises ShapeError, which names the first other array that is missing, not of the net, or of another shape.
    """
    own, of_classes = net.arrays, heads(net)
    for name in (*own, *found):
        if name not in own or name not in found:
            raise ShapeError(f"{name}: {'missing' if name in own else 'the net has no such array'}")
    other = {name: found[name].shape for name in own if found[name].shape != own[name].shape}
    new = {name.rpartition("/")[0] for name in other}
    for name, shape in other.items():
        if name.rpartition("/")[0] not in of_classes or shape[:-1] != own[name].shape[:-1]:
            raise ShapeError(f"{name}: shape {shape}, expected {own[name].shape}")
    for name, array in own.items():
        if name.rpartition("/")[0] not in new:
            array[...] = net.put(found[name].astype(array.dtype))
    return sorted(new)
