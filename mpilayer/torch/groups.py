"""The parameters of a PyTorch model in groups, one for each module, and flat memory for their gradients."""

import math

import numpy as np
import torch

import kernels
from kernels.layout import offsets
from mpilayer.base.errors import UserError
from mpilayer.mpi.agreement import compare

DTYPES = torch.float32, torch.bfloat16, torch.float16


class Group:
    """The parameters that one module owns: what a GradientQueue takes for a layer.

    name         of the module          parameters   {name in the model: torch.nn.Parameter}, names and dtypes by it
    w, g         (n,) float32: memory of the gradient in the first slot, in place of weights, and in the present one
    views        for each slot {parameter: tensor of its size and strides} in that memory
    """

    def __init__(self, name, parameters):
        self.name, self.parameters = name, parameters
        self.names = {parameter: name for name, parameter in parameters.items()}
        self.dtypes = {parameter: parameter.dtype for parameter in parameters.values()}
        self.ends = np.cumsum([0, *(p.numel() for p in parameters.values())]).tolist()
        self.shapes = {name: (p.shape[0], p.numel() // p.shape[0]) if p.ndim > 1 else (p.numel(),)
                       for name, p in parameters.items()}
        self.w = self.g = None
        self.views = []

    def tensors(self, flat):
        """{parameter: tensor of its size and strides} in `flat` (n,) float32."""
        pieces = zip(self.parameters.values(), self.ends[:-1], self.ends[1:], strict=True)
        return {p: torch.from_numpy(flat[a:b]).as_strided(p.size(), _strides(p)) for p, a, b in pieces}

    def bind(self, flat):
        """Use `flat` (n,) float32 as the memory of one more slot."""
        self.views.append(self.tensors(flat))
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
            flat = kernels.pages(self._size)
            self._slots.append(flat)
            for group in self.backward_layers:
                group.bind(flat[slice(*self.offsets[group.name])])
        return self._slots[slot]


def check_equal(ranks, groups):
    """Raise AgreedError unless all ranks have parameters of the same names, shapes and dtypes."""
    facts = {name: f"{tuple(p.shape)} {p.dtype}" for group in groups for name, p in group.parameters.items()}
    compare(ranks, facts, "the same model on every rank")


@torch.no_grad()
def broadcast(ranks, model):
    """Give all ranks what the first one has."""
    for tensor in model.state_dict().values():
        if isinstance(tensor, torch.Tensor) and tensor.numel():
            same = tensor.detach().clone(memory_format=torch.contiguous_format)
            ranks.broadcast(same.view(-1).view(torch.uint8).numpy())
            tensor.copy_(same)


@torch.no_grad()
def average_buffers(ranks, model):
    """Buffers of numbers, such as the running statistics of batch norm, become their means over the ranks."""
    for buffer in model.buffers():
        if buffer.is_floating_point() and buffer.numel():
            numbers = buffer.double().contiguous()
            ranks.total(numbers.view(-1).numpy())
            buffer.copy_(numbers / ranks.size)


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
