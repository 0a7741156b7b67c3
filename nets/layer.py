"""Layers: blocks with weights. What a layer is made of travels together; its memory belongs to the net."""

import math

import numpy as np

import kernels


class Layer:
    """`w` and `g` are flat float32 views of the net's weights and gradients; `parameters` names their parts.

    A block with weights is a Layer. It yields itself before it reads `w`, and again when `g` is final.
    """

    input_gradient = True  # the first layer of a net needs none

    def __init__(self, name):
        self.name, self.shapes, self.fill = name, {}, {}
        self.w = self.g = None

    def declare(self, part, shape, std=0.0, mean=0.0):
        """Announce a parameter and its initial distribution (normal; constant where std is 0)."""
        self.shapes[part], self.fill[part] = tuple(shape), (mean, std)

    @property
    def size(self):
        """Number of parameters."""
        return sum(map(np.prod, self.shapes.values()))

    def _views(self, flat):
        ends = np.cumsum([np.prod(s) for s in self.shapes.values()])[:-1]
        return {part: piece.reshape(shape) for (part, shape), piece in
                zip(self.shapes.items(), np.split(flat, ends), strict=True)}

    def bind_weights(self, flat):
        """Take `flat` (size,) as the weights."""
        self.w, self.weight = flat, self._views(flat)

    def bind_gradient(self, flat):
        """Take `flat` (size,) as the place of the gradient."""
        self.g, self.gradient = flat, self._views(flat)

    def initialise(self, rng):
        """Draw the weights."""
        for part, (mean, std) in self.fill.items():
            self.weight[part][...] = mean + std * rng.standard_normal(self.shapes[part], np.float32)


class Conv(Layer):
    """Convolution, bias and ReLU. `std` of the initial weights; by default He et al. 2015, sqrt(2 / fan in)."""

    def __init__(self, name, channels, window, *, stride=1, padding=0, groups=1, std=None, bias=0.0):
        super().__init__(name)
        self.channels, self.window, self.std, self.bias = channels, window, std, bias
        self.geometry = {"stride": stride, "padding": padding, "groups": groups}

    def build(self, shape):
        """Declare weight (R,S,C/groups,K) and bias (K,)."""
        H, W, C = shape
        filters = (self.window, self.window, C // self.geometry["groups"], self.channels)
        self.declare("weight", filters, self.std or math.sqrt(2 / math.prod(filters[:3])))
        self.declare("bias", (self.channels,), mean=self.bias)
        stride, padding = self.geometry["stride"], self.geometry["padding"]
        P, Q = ((n + 2 * padding - self.window) // stride + 1 for n in (H, W))
        if min(P, Q) < 1:
            raise ValueError(f"{self.name}: its {self.window}x{self.window} window does not fit an input of {H}x{W}")
        return P, Q, self.channels

    def forward(self, x, batch):
        """Conv + bias + ReLU."""
        yield self
        self.x = x
        self.y = kernels.conv2d(x, self.weight["weight"], self.weight["bias"], relu=True, **self.geometry)
        return self.y

    def backward(self, dy):
        """The gradient of the weights first: it has a way to go."""
        kernels.bias_relu_backward(dy, self.y, out=dy, db=self.gradient["bias"])
        weight = self.gradient["weight"]
        kernels.conv2d_wgrad(self.x, dy, weight.shape, out=weight, **self.geometry)
        yield self
        if not self.input_gradient:
            return None
        return kernels.conv2d_dgrad(dy, self.weight["weight"], self.x.shape, **self.geometry)


class Dense(Layer):
    """Fully connected layer, bias and, unless switched off, ReLU."""

    def __init__(self, name, channels, *, relu=True, std=None, bias=0.0):
        super().__init__(name)
        self.channels, self.relu, self.std, self.bias = channels, relu, std, bias

    def build(self, shape):
        """Declare weight (C,K) and bias (K,)."""
        (C,) = shape
        self.declare("weight", (C, self.channels), self.std or math.sqrt(2 / C))
        self.declare("bias", (self.channels,), mean=self.bias)
        return (self.channels,)

    def forward(self, x, batch):
        """Dense + bias + ReLU."""
        yield self
        self.x = x
        self.y = kernels.dense(x, self.weight["weight"], self.weight["bias"], relu=self.relu)
        return self.y

    def backward(self, dy):
        """The gradient of the weights first: it has a way to go."""
        if self.relu:
            kernels.bias_relu_backward(dy, self.y, out=dy, db=self.gradient["bias"])
        else:
            kernels.bias_grad(dy, out=self.gradient["bias"])
        kernels.dense_wgrad(self.x, dy, out=self.gradient["weight"])
        yield self
        return kernels.dense_dgrad(dy, self.weight["weight"]) if self.input_gradient else None
