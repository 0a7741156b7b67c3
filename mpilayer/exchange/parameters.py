"""The user's arrays, copied into flat memory, which is what the request queue works on."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

import kernels
from kernels.layout import offsets
from mpilayer.mpi.ranks import Ranks


class Parameter(NamedTuple):
    """One array: its name, flat views of its weights and of its gradient in buffer 0, and {name: its shape}."""

    name: str
    w: np.ndarray
    g: np.ndarray
    shapes: dict[str, tuple[int, ...]]


class Parameters(Mapping):
    """Named float32 arrays, copied into flat memory: parameters["w1"] is a view of it with the array's shape.

    arrays    a mapping from names to NumPy arrays of float32, in the order in which forward reads them
    weights   the flat memory (n,) float32, in the opposite order, that of backward; each array begins a cache line
    offsets   {name: (begin, end)} of each array in the flat memory
    layers    a Parameter for each array, in the order of forward

    `parameters["w1"] -= ...` and `parameters["w1"] = ...` change the numbers in that memory; it stays where it is. The
    arrays that were given do not change.

    Raises TypeError for an array that is not NumPy's (one on a GPU, say) or not of float32, and for a name that is not
    a string; ValueError for no array at all, or an empty one.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        arrays = dict(arrays)
        if not arrays:
            raise ValueError("no parameters | expected a mapping from names to float32 arrays")
        for name, array in arrays.items():
            _check(name, array)
        self.offsets, size = offsets({name: array.size for name, array in reversed(arrays.items())})
        self.weights, self._gradients = kernels.pages(size), [kernels.pages(size)]
        self._views = {name: self.weights[slice(*self.offsets[name])].reshape(array.shape)
                       for name, array in arrays.items()}
        for name, array in arrays.items():
            self._views[name][...] = array
        self.layers = [self._layer(name) for name in arrays]

    def _layer(self, name):
        part = slice(*self.offsets[name])
        return Parameter(name, self.weights[part], self._gradients[0][part], {name: self._views[name].shape})

    def broadcast(self, ranks: Ranks) -> None:
        """Give all ranks the numbers that the first one has; all ranks call this together."""
        ranks.broadcast(self.weights)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._views[name]

    def __setitem__(self, name: str, value: ArrayLike) -> None:
        self._views[name][...] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._views)

    def __len__(self) -> int:
        return len(self._views)

    @property
    def backward_layers(self) -> list[Parameter]:
        """The layers in the order of memory, which is that of backward."""
        return self.layers[::-1]

    def gradient_buffer(self, slot: int) -> np.ndarray:
        """Gradient buffer number `slot`, laid out as `weights`; a new buffer is made when it is first asked for."""
        while len(self._gradients) <= slot:
            self._gradients.append(kernels.pages(self.weights.size))
        return self._gradients[slot]


def _check(name, array):
    if not isinstance(name, str):
        raise TypeError(f"parameters | expected names that are strings, got {name!r} of type {_kind(name)}")
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} | expected a NumPy array of float32, got {_kind(array)}")
    if array.dtype != np.float32:
        raise TypeError(f"{name} | expected float32, got {array.dtype} | try: array.astype(numpy.float32)")
    if not array.size:
        raise ValueError(f"{name} | expected at least one number, got shape {array.shape}")


def _kind(value):
    """Of what type it is, as its users call that: list, cupy.ndarray."""
    package = type(value).__module__.partition(".")[0]
    return type(value).__name__ if package == "builtins" else f"{package}.{type(value).__name__}"
