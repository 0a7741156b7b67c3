"""Any of our nets in PyTorch, eagerly, block by block, on copies of our weights; on a CPU or a GPU, as ours is."""

import contextlib

import numpy as np
import torch
from torch.nn import functional

from bench.timing import Events, alternate
from kernels import gpu
from kernels.gpu import fetch
from mpilayer.base.errors import UserError
from nets.blocks import (
    Attention,
    AvgPool,
    Dropout,
    Flatten,
    Gelu,
    GlobalAvgPool,
    Loss,
    Lrn,
    MaxPool,
)
from nets.composite import Concat, Residual, Sequence, Side, Skip
from nets.conv_norm import ConvNorm
from nets.layer import Conv, Dense, Embedding, LayerNorm

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
AXES = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}  # of our weights, in PyTorch's order: RSCK to KCRS, CK to KC


def _axes(layer, array):
    """An embedding lies in both as tokens by channels."""
    return (0, 1) if isinstance(layer, Embedding) else AXES[array.ndim]


def _batch_norm(x, gamma, beta):
    """With the statistics of the batch; running ones are kept as well, as in training."""
    running = torch.zeros(2, gamma.numel(), device=gamma.device)
    return functional.batch_norm(x, *running, gamma, beta, training=True, eps=ConvNorm.EPS)


def _attention(x, heads):
    """Of (N,T,3C)."""
    N, T, C = x.shape[0], x.shape[1], x.shape[2] // 3
    parts = [part.view(N, T, heads, C // heads).transpose(1, 2) for part in x.split(C, 2)]
    return functional.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).reshape(N, T, C)


def _along_channels(function, x):
    """What `function` makes of x with channels last, where images do not have them."""
    return function(x) if x.ndim < 4 else function(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def set_precision(name):
    """How PyTorch multiplies on a GPU from here on, and that it looks for cuDNN's fastest way."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = name == "tf32"


class Step:
    """A training step of `net` on `batch` in one of LAYOUTS, with the faster of PyTorch's two SGDs.

    `precision` on a GPU: float32, tf32 or bfloat16, this by autocast. set_precision is for all steps from here on.
    """

    def __init__(self, net, batch, layout, constants, precision="float32"):
        self.on_gpu, self.format = gpu.is_array(batch.x), LAYOUTS[layout]
        self.device, self.precision = "cuda" if self.on_gpu else "cpu", precision
        self.body, self.y, self.x = net.body, self._put(batch.y).reshape(-1), self._put(batch.x)
        if self.x.ndim == 4:
            self.x = self.x.permute(0, 3, 1, 2).contiguous(memory_format=self.format)
        self.layers = {layer.name: layer for layer in net.layers}
        self.weights = {layer.name: [self._copy(layer, array) for array in layer.weight.values()]
                        for layer in net.layers}
        self.tensors = [tensor for layer in self.weights.values() for tensor in layer]
        size = sum(tensor.numel() for tensor in self.tensors)
        if size != net.size:
            raise UserError(f"PyTorch's net has {size} parameters, ours {net.size} | they are not the same net")
        self.constants, self.optimizer = constants, None

    def _put(self, array):
        return torch.from_numpy(fetch(array)).to(self.device)

    def _copy(self, layer, array):
        tensor = self._put(array).permute(_axes(layer, array))
        return tensor.clone(memory_format=self.format if array.ndim == 4 else torch.contiguous_format).requires_grad_()

    def _cast(self):
        """What forward runs in."""
        if self.precision == "bfloat16":
            return torch.autocast(self.device, torch.bfloat16)
        return contextlib.nullcontext()

    def run(self, block, x):
        """The output of a block of ours."""
        match block:
            case Conv():
                y = functional.conv2d(x, *self.weights[block.name], **block.geometry)
                return y.relu_() if block.relu else y
            case Dense():
                y = _along_channels(lambda x: functional.linear(x, *self.weights[block.name]), x)
                return y.relu_() if block.relu else y
            case ConvNorm():
                y = self.norm(block, x)
                return y.relu_() if block.relu else y
            case Residual():
                return self.residual(block, x)
            case LayerNorm():
                return _along_channels(lambda x: functional.layer_norm(x, x.shape[-1:], *self.weights[block.name]), x)
            case Embedding():
                token, position = self.weights[block.name]
                return functional.embedding(x, token) + position
            case Gelu():
                return functional.gelu(x, approximate="tanh")
            case Attention():
                return _attention(x, block.heads)
            case Skip():
                return x + self.sequence(block, x)
            case AvgPool():
                return functional.avg_pool2d(x, block.window, **block.geometry)
            case MaxPool():
                return functional.max_pool2d(x, block.window, **block.geometry)
            case GlobalAvgPool():
                return x.mean((2, 3))
            case Flatten():
                return x.permute(0, 2, 3, 1).flatten(1)  # in our order; nothing moves in channels_last
            case Lrn():
                return functional.local_response_norm(x, *block.PARAMETERS)
            case Dropout():
                return functional.dropout(x, block.rate)
            case Concat():
                return torch.cat([self.run(branch, x) for branch in block.blocks], 1)
            case Loss():
                self.loss = self.loss + block.weight * functional.cross_entropy(x.flatten(0, -2), self.y)
                return x
            case Sequence():
                y = self.sequence(block, x)
                return x if isinstance(block, Side) else y
        raise UserError(f"PyTorch's net has no {type(block).__name__} | add it to bench/peer_torch.py")

    def sequence(self, block, x):
        """One after the other."""
        for part in block.blocks:
            x = self.run(part, x)
        return x

    def norm(self, block, x):
        """Convolution and batch normalization."""
        weight, *scales = self.weights[block.name]
        return _batch_norm(functional.conv2d(x, weight, **block.geometry), *scales)

    def residual(self, block, x):
        """Two ways that join before the last rectifier."""
        short, y = x if block.shortcut is None else self.run(block.shortcut, x), x
        for part in block.body[:-1]:
            y = self.run(part, y)
        return self.norm(block.body[-1], y).add_(short).relu_()

    def backward(self):
        """Forward, loss and gradients."""
        for tensor in self.tensors:
            tensor.grad = None
        self.loss = 0.0
        with torch.enable_grad():
            with self._cast():
                self.run(self.body, self.x)
            self.loss.backward()

    def gradients(self):
        """(loss, {name of a layer: flat gradient in our order})."""
        self.backward()
        return self.loss.item(), {
            name: np.concatenate([t.grad.cpu().numpy().transpose(np.argsort(_axes(self.layers[name], t))).reshape(-1)
                                  for t in tensors]) for name, tensors in self.weights.items()}

    def _faster_optimizer(self):
        kinds = {kind: torch.optim.SGD(self.tensors, **self.constants, **{kind: True}) for kind in ("foreach", "fused")}
        times = alternate({kind: optimizer.step for kind, optimizer in kinds.items()}, rounds=3, seconds=0,
                          clock=Events() if self.on_gpu else None)
        return kinds[min(times, key=times.get)]

    def __call__(self):
        """One training step."""
        self.backward()
        self.optimizer = self.optimizer or self._faster_optimizer()
        self.optimizer.step()
