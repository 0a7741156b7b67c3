"""Layers: blocks with weights. What a layer is made of travels together; its memory belongs to the net."""

import math

import numpy as np

import kernels
from nets.shapes import ShapeError, require


class Layer:
    """The base of all blocks with weights. It yields itself just before it reads `w`, and again when `g` is final.

    name       of the layer; no other layer of a net has it
    w          its weights, (size,) float32, a view of the net's memory
    rounded    w in bfloat16, (size,), if the net keeps that (Net.round_weights), else None
    g          its gradient, (size,) float32, likewise; or where `rounds_gradient`, perhaps bfloat16
    shapes     {part: shape} of the arrays that w and g consist of, such as weight and bias
    weight     {part: view of w in that shape}
    factor     {part: view in that shape of what products read: of `rounded`, or of w}
    gradient   {part: view of g in that shape}
    """

    rounds_gradient = False  # whether backward can write g in bfloat16
    input_gradient = True  # the first layer of a net needs none
    kind = "other"  # what it is counted as: conv, dense, attention or other
    state_size = 0  # values that training gathers beside the weights, in `state`
    activations = np.dtype(np.float32)  # what flows from layer to layer

    def __init__(self, name):
        self.name, self.shapes, self.fill = name, {}, {}
        self.w = self.g = None

    def declare(self, part, shape, std=0.0, mean=0.0):
        """Say in build() that the layer has an array `part`, and how it is drawn: normal, or constant for std 0."""
        self.shapes[part], self.fill[part] = tuple(shape), (mean, std)

    @property
    def statistics(self):
        """{name: view of the state} of what evaluation needs beside the weights."""
        return {}

    @property
    def size(self):
        """Number of parameters."""
        return sum(map(math.prod, self.shapes.values()))

    def _views(self, flat):
        views, begin = {}, 0
        for part, shape in self.shapes.items():
            end = begin + math.prod(shape)
            views[part], begin = flat[begin:end].reshape(shape), end
        return views

    def bind_weights(self, flat):
        """Use `flat` (size,) float32 as the weights."""
        self.w, self.weight = flat, self._views(flat)
        self.bind_rounded(None)

    def bind_rounded(self, flat):
        """Let products read `flat` (size,) bfloat16, which those keep up to date who change the weights; None: w."""
        self.rounded, self.factor = flat, self.weight if flat is None else self._views(flat)

    def gradient_in(self, flat):
        """`flat` (size,) as bind_gradient takes it."""
        return flat, self._views(flat)

    def bind_gradient(self, place):
        """Write the gradient there from here on; `place` is from gradient_in."""
        self.g, self.gradient = place

    def bind_state(self, flat):
        """Use `flat` (state_size,) float64, all zeros, as the state."""
        self.state = flat

    def initialise(self, rng):
        """Draw the weights."""
        for part, (mean, std) in self.fill.items():
            self.weight[part][...] = mean + std * rng.standard_normal(self.shapes[part], np.float32)


def conv_shape(layer, shape):
    """What a convolution makes of (H,W,C). Raises ShapeError for another shape, if its window does not fit, and if its
    groups do not share out the channels.
    """
    require(layer.name, shape, "H,W,C")
    stride, padding, dilation, groups = (layer.geometry[name] for name in ("stride", "padding", "dilation", "groups"))
    if shape[2] % groups or layer.channels % groups:
        raise ShapeError(f"{layer.name}: {groups} groups cannot share out {shape[2]} channels that come in and"
                         f" {layer.channels} that go out")
    P, Q = ((n + 2 * padding - dilation * (layer.window - 1) - 1) // stride + 1 for n in shape[:2])
    if min(P, Q) < 1:
        apart = f", with a dilation of {dilation}," if dilation > 1 else ""
        raise ShapeError(f"{layer.name}: its {layer.window}x{layer.window} window{apart} does not fit an input of"
                         f" {shape[0]}x{shape[1]}")
    return P, Q, layer.channels


class Conv(Layer):
    """Convolution, bias and, unless relu=False, ReLU: (H,W,C) to (P,Q,channels).

    channels   out of the layer
    window     taps in each direction
    stride, padding, dilation, groups   as in kernels.conv2d
    std        of the initial weights; default: sqrt(2 / fan in), He et al. 2015
    bias       its initial value
    """

    kind = "conv"

    def __init__(self, name, channels, window, *, stride=1, padding=0, dilation=1, groups=1, relu=True, std=None,
                 bias=0.0):
        super().__init__(name)
        self.channels, self.window, self.relu, self.std, self.bias = channels, window, relu, std, bias
        self.geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    def build(self, shape):
        """Declare weight (R,S,C/groups,K) and bias (K,)."""
        made = conv_shape(self, shape)
        filters = (self.window, self.window, shape[2] // self.geometry["groups"], self.channels)
        self.declare("weight", filters, self.std or math.sqrt(2 / math.prod(filters[:3])))
        self.declare("bias", (self.channels,), mean=self.bias)
        return made

    def forward(self, x, batch):
        """Convolve, add the bias, ReLU."""
        yield self
        self.x = x
        self.y = kernels.conv2d(x, self.factor["weight"], self.weight["bias"], relu=self.relu, **self.geometry)
        return self.y

    def backward(self, dy):
        """The gradient of the weights first, since it is sent to other ranks."""
        if self.relu:
            kernels.bias_relu_backward(dy, self.y, out=dy, db=self.gradient["bias"])
        else:
            kernels.bias_grad(dy, out=self.gradient["bias"])
        weight = self.gradient["weight"]
        kernels.conv2d_wgrad(self.x, dy, weight.shape, out=weight, **self.geometry)
        yield self
        if not self.input_gradient:
            return None
        return kernels.conv2d_dgrad(dy, self.factor["weight"], self.x.shape, **self.geometry)


class Dense(Layer):
    """Fully connected layer, with bias unless bias=None and ReLU unless relu=False: (C,) to (channels,).

    Of tokens (T,C) it does so with each of them, of images (H,W,C) with each pixel. `std` of the initial weights is
    sqrt(2 / C) by default; `kind` is what the layer is counted as in measurements.
    """

    rounds_gradient = True

    def __init__(self, name, channels, *, relu=True, std=None, bias=0.0, kind="dense"):
        super().__init__(name)
        self.channels, self.relu, self.std, self.bias, self.kind = channels, relu, std, bias, kind

    def build(self, shape):
        """Declare weight (C,K) and bias (K,)."""
        *tokens, C = shape
        self.images = len(shape) == 3
        self.declare("weight", (C, self.channels), self.std or math.sqrt(2 / C))
        if self.bias is not None:
            self.declare("bias", (self.channels,), mean=self.bias)
        return *tokens, self.channels

    def forward(self, x, batch):
        """Dense + bias + ReLU."""
        yield self
        self.x = x.reshape(-1, x.shape[-1])
        y = kernels.dense(self.x, self.factor["weight"], self.weight.get("bias"), relu=self.relu)
        self.y = y.reshape(*x.shape[:-1], self.channels)
        return self.y

    def backward(self, dy):
        """The gradient of the weights first, since it is sent to other ranks."""
        tokens, dy = dy.shape[:-1], dy.reshape(-1, self.channels)
        if self.relu:
            _, db = kernels.bias_relu_backward(dy, self.y.reshape(dy.shape), out=dy)
        elif self.bias is not None:
            db = kernels.bias_grad(dy)
        if self.bias is not None:
            self.gradient["bias"][...] = db
        kernels.dense_wgrad(self.x, dy, out=self.gradient["weight"])
        yield self
        return kernels.dense_dgrad(dy, self.factor["weight"]).reshape(*tokens, -1) if self.input_gradient else None


class LayerNorm(Layer):
    """Layer normalization (Ba et al. 2016) of each token (T,C) or pixel (H,W,C), or of (C,); the shape stays."""

    def build(self, shape):
        """Declare gamma and beta (C,)."""
        self.images = len(shape) == 3
        self.declare("gamma", shape[-1:], mean=1.0)
        self.declare("beta", shape[-1:])
        return shape

    def forward(self, x, batch):
        """Normalize, scale, shift."""
        yield self
        self.x = x.reshape(-1, x.shape[-1])
        y, self.mean, self.rstd = kernels.layernorm(self.x, self.weight["gamma"], self.weight["beta"])
        self.y = y.reshape(x.shape)
        return self.y

    def backward(self, dy):
        """The gradients by x, gamma and beta in one pass."""
        g = self.gradient
        dx, *_ = kernels.layernorm_backward(dy.reshape(self.x.shape), self.x, self.mean, self.rstd,
                                            self.weight["gamma"], dgamma=g["gamma"], dbeta=g["beta"])
        yield self
        return dx.reshape(dy.shape)


class Embedding(Layer):
    """A vector for each token plus one for each position: (T,) to (T,channels). Tokens are 0..vocabulary-1."""

    def __init__(self, name, vocabulary, channels, std):
        super().__init__(name)
        self.vocabulary, self.channels, self.std = vocabulary, channels, std

    def build(self, shape):
        """Declare token (V,C) and position (T,C). Raises ShapeError for another shape."""
        require(self.name, shape, "T")
        self.declare("token", (self.vocabulary, self.channels), self.std)
        self.declare("position", (*shape, self.channels), self.std)
        return *shape, self.channels

    def forward(self, x, batch):
        """Add up the two vectors of each token."""
        yield self
        self.x = x
        self.y = kernels.embedding(x, self.weight["token"], self.weight["position"], dtype=self.activations)
        return self.y

    def backward(self, dy):
        """The gradient of both tables; rows of tokens that do not occur are zero."""
        kernels.embedding_backward(dy, self.x, self.gradient["token"], self.gradient["position"])
        yield self
