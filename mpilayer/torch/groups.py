"""The parameters of a PyTorch model in groups, one for each module, and flat memory for their gradients."""

import math

import numpy as np
import torch

import kernels
from kernels.layout import offsets
from mpilayer.base.errors import UserError

DTYPES = torch.float32, torch.bfloat16, torch.float16


class Group:
    """The parameters that one module owns: what a GradientQueue takes for a layer.

    name         of the module          parameters   {name in the model: torch.nn.Parameter}
    w, g         (n,) float32: memory of the gradient in the first slot, in place of weights, and in the present one
    views        for each slot {parameter: tensor of its size and strides} in that memory
    """

    def __init__(self, name, parameters):
        self.name, self.parameters = name, parameters
        self.names = {parameter: name for name, parameter in parameters.items()}
        self.ends = np.cumsum([0, *(p.numel() for p in parameters.values())]).tolist()
        self.shapes = {name: (p.shape[0], p.numel() // p.shape[0]) if p.ndim > 1 else (p.numel(),)
                       for name, p in parameters.items()}
        self.w = self.g = None
        self.views = []

    def bind(self, flat):
        """Use `flat` (n,) float32 as the memory of one more slot."""
        pieces = zip(self.parameters.values(), self.ends[:-1], self.ends[1:], strict=True)
        self.views.append({p: torch.from_numpy(flat[a:b]).as_strided(p.size(), _strides(p)) for p, a, b in pieces})
        self.w = flat if self.w is None else self.w


def _strides(parameter):
    """Of dense memory in the parameter's order of dimensions."""
    return torch.empty_like(parameter, device="meta").stride()


class FlatGradients:
    """What a GradientQueue takes for a net: `layers`, Groups in the order of forward, whose gradients lie in flat
    memory in the order of backward. `weights` has its size, and is nothing else.
    """

    def __init__(self, forward, backward):
        self.layers, self.backward_layers, self._slots = forward, backward, []
        self.offsets, self._size = offsets({group.name: group.ends[-1] for group in backward})
        self.weights = self.gradient_buffer(0)
        for group in forward:
            group.g = group.w

    def gradient_buffer(self, slot):
        """Gradient buffer number `slot`, (n,) float32; a new buffer is made when it is first asked for."""
        while len(self._slots) <= slot:
            flat = kernels.empty((self._size,))
            flat[:] = 0
            self._slots.append(flat)
            for group in self.backward_layers:
                group.bind(flat[slice(*self.offsets[group.name])])
        return self._slots[slot]


def groups_of(model):
    """A Group for each module with parameters to train; one that modules share is the first one's.

    Raises UserError for parameters that are not in float32, bfloat16 or float16 on the CPU, and for none at all.
    """
    found, seen = [], set()
    for name, module in model.named_modules():
        own = {f"{name}.{key}" if name else key: p for key, p in module.named_parameters(recurse=False)
               if p.requires_grad and p not in seen}
        seen.update(own.values())
        for key, parameter in own.items():
            _check(key, parameter)
        if own:
            found.append(Group(name or "model", own))
    if not found:
        raise UserError("the model has no parameters to train | expected some with requires_grad")
    return found


def _check(name, parameter):
    if parameter.device.type != "cpu":
        raise UserError(f"{name} | is on {parameter.device} | expected a model on the CPU | try: model.cpu()")
    if parameter.dtype not in DTYPES:
        raise UserError(f"{name} | expected float32, bfloat16 or float16, got {parameter.dtype} | try: model.float()")
    if not math.prod(parameter.shape):
        raise UserError(f"{name} | has no numbers | expected a shape without 0, got {tuple(parameter.shape)}")
