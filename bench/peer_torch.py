"""Any of our nets in PyTorch, eagerly, block by block, on copies of our weights."""

import numpy as np
import torch
from torch.nn import functional

from bench.timing import alternate
from mpilayer.errors import UserError
from nets.blocks import (
    AvgPool,
    Concat,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Loss,
    Lrn,
    MaxPool,
    Sequence,
    Side,
)
from nets.layer import Conv, Dense

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
AXES = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}  # of our weights, in PyTorch's order: RSCK to KCRS, CK to KC


def _copy(array, memory_format):
    tensor = torch.from_numpy(array.transpose(AXES[array.ndim]))
    return tensor.clone(memory_format=memory_format if array.ndim == 4 else torch.contiguous_format).requires_grad_()


class Step:
    """A training step of `net` on `batch` in one of LAYOUTS, with the faster of PyTorch's two SGDs."""

    def __init__(self, net, batch, layout, constants):
        self.body, self.y, memory_format = net.body, torch.from_numpy(batch.y), LAYOUTS[layout]
        self.x = torch.from_numpy(batch.x.transpose(0, 3, 1, 2)).contiguous(memory_format=memory_format)
        self.weights = {layer.name: [_copy(array, memory_format) for array in layer.weight.values()]
                        for layer in net.layers}
        self.tensors = [tensor for layer in self.weights.values() for tensor in layer]
        size = sum(tensor.numel() for tensor in self.tensors)
        if size != net.size:
            raise UserError(f"PyTorch's net has {size} parameters, ours {net.size} | they are not the same net")
        self.constants, self.optimizer = constants, None

    def run(self, block, x):
        """The output of a block of ours."""
        match block:
            case Conv():
                return functional.conv2d(x, *self.weights[block.name], **block.geometry).relu_()
            case Dense():
                y = functional.linear(x, *self.weights[block.name])
                return y.relu_() if block.relu else y
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
                self.loss = self.loss + block.weight * functional.cross_entropy(x, self.y)
                return x
            case Sequence():
                y = x
                for part in block.blocks:
                    y = self.run(part, y)
                return x if isinstance(block, Side) else y
        raise UserError(f"PyTorch's net has no {type(block).__name__} | add it to bench/peer_torch.py")

    def backward(self):
        """Forward, loss and gradients."""
        for tensor in self.tensors:
            tensor.grad = None
        self.loss = 0.0
        with torch.enable_grad():
            self.run(self.body, self.x)
            self.loss.backward()

    def gradients(self):
        """(loss, {name of a layer: flat gradient in our order})."""
        self.backward()
        return self.loss.item(), {
            name: np.concatenate([t.grad.numpy().transpose(np.argsort(AXES[t.ndim])).reshape(-1) for t in layer])
            for name, layer in self.weights.items()}

    def _faster_optimizer(self):
        kinds = {kind: torch.optim.SGD(self.tensors, **self.constants, **{kind: True}) for kind in ("foreach", "fused")}
        times = alternate({kind: optimizer.step for kind, optimizer in kinds.items()}, rounds=3, seconds=0)
        return kinds[min(times, key=times.get)]

    def __call__(self):
        """One training step."""
        self.backward()
        self.optimizer = self.optimizer or self._faster_optimizer()
        self.optimizer.step()
