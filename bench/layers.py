"""The layers of the nets, each pass as a function: ours and PyTorch's, on the same numbers, here or on the GPU."""

import contextlib
import functools

import numpy as np

import kernels
from kernels import gpu
from kernels.attention.cases import CASES as ATTENTION
from kernels.attention.cases import Case as Attention
from kernels.conv2d.cases import CASES as CONVOLUTIONS
from kernels.dense.cases import CASES as DENSE
from kernels.dense.cases import Case as Dense

PASSES = ("forward", "dgrad", "wgrad", "backward")
CASES = [case for case in (*CONVOLUTIONS, *DENSE, *ATTENTION) if case.net != "odd"]


def passes(case):
    """Its passes; no layer needs the gradient by the image."""
    if isinstance(case, Attention):
        return ("forward", "backward")
    return tuple(name for name in PASSES[:3] if not (name == "dgrad" and case.channels == 3))


def flops(case, name, batch):
    """Multiplications and additions of a pass."""
    return case.flops(batch) * (5 / 2 if name == "backward" else 1)


def _steps(case):
    """[(sign, stride or dilation)] that is not 1."""
    named = (("/", getattr(case, "stride", 1)), (":", getattr(case, "dilation", 1)))
    return [(sign, value) for sign, value in named if value > 1]


def shape(case, batch):
    """x * w / stride : dilation, as in 16x27x27x96 * 5x5x48x256; of attention that of qkv, and heads x channels."""
    x, *w = ("x".join(map(str, sizes)) for sizes in case.shapes(batch))
    if isinstance(case, Attention):
        return f"{x}, {case.heads} x {case.D}"
    return f"{x} * {w[0]}" + "".join(f" {sign} {value}" for sign, value in _steps(case))


def kind(case):
    """Which layers it is compared with: attention, dense, or as in 3x3 / 2, 7x7 depthwise."""
    if isinstance(case, Attention | Dense):
        return "attention" if isinstance(case, Attention) else "dense"
    words = [f"{case.window}x{case.window}", *(f"{sign} {value}" for sign, value in _steps(case))]
    return " ".join([*words, *(["depthwise"] if case.groups == case.channels > 1 else [])])


def blank(array, dtype=None):
    """Memory for another one like it, or of another dtype."""
    dtype = dtype or array.dtype
    return np.empty_like(array, dtype=dtype) if gpu.is_array(array) else kernels.empty(array.shape, dtype)


def _attention(case, qkv):
    y, lse = out = kernels.attention(qkv, case.heads)
    dy, dqkv = y.copy(), blank(qkv)
    return {"forward": lambda: kernels.attention(qkv, case.heads, out=out),
            "backward": lambda: kernels.attention_backward(dy, qkv, y, lse, out=dqkv)}


def _layer(case, x, w, dy):
    y, dx, dw = blank(dy), blank(x), blank(w, np.float32)
    if isinstance(case, Dense):
        return {"forward": lambda: kernels.dense(x, w, out=y),
                "dgrad": lambda: kernels.dense_dgrad(dy, w, out=dx),
                "wgrad": lambda: kernels.dense_wgrad(x, dy, out=dw)}
    return {"forward": lambda: kernels.conv2d(x, w, out=y, **case.options),
            "dgrad": lambda: kernels.conv2d_dgrad(dy, w, x.shape, out=dx, **case.options),
            "wgrad": lambda: kernels.conv2d_wgrad(x, dy, w.shape, out=dw, **case.options)}


def ours(case, *arrays):
    """{pass: function} of our kernels, each into its own memory; arrays of case.shapes."""
    found = (_attention if isinstance(case, Attention) else _layer)(case, *arrays)
    return {name: found[name] for name in passes(case)}


def _tensor(array, like):
    """The same numbers as a tensor of PyTorch, here or on the GPU; bfloat16 if `like` is."""
    import torch

    if not gpu.is_array(array) and array.dtype.name == "bfloat16":  # which NumPy's ways to PyTorch do not know
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    short = like.dtype.name == "bfloat16" and not gpu.is_array(like)
    return torch.from_dlpack(array).bfloat16() if short else torch.from_dlpack(array)


def _torch_dense(case, x, w, dy):
    """By the layout of the weights."""
    import torch

    x, w_ck, dy = (_tensor(array, x) for array in (x, w, dy))
    w_kc = w_ck.t().contiguous()
    return {"forward": {"CK": lambda: x @ w_ck, "KC": lambda: torch.nn.functional.linear(x, w_kc)},
            "dgrad": {"CK": lambda: dy @ w_ck.t(), "KC": lambda: dy @ w_kc},
            "wgrad": {"CK": lambda: x.t() @ dy, "KC": lambda: dy.t() @ x}}


def _torch_conv(case, x, w, dy):
    """By memory format."""
    import torch

    axes = (0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)
    nchw = [_tensor(array, x).permute(order) for array, order in zip((x, w, dy), axes, strict=True)]
    stride, padding, dilation, none = ([value, value] for value in (case.stride, case.padding, case.dilation, 0))

    def functions(layout):
        x, w, dy = (tensor.clone(memory_format=layout) for tensor in nchw)

        def backward(*mask):
            return torch.ops.aten.convolution_backward(dy, x, w, None, stride, padding, dilation, False, none,
                                                       case.groups, mask)

        return {"forward": lambda: torch.nn.functional.conv2d(x, w, **case.options),
                "dgrad": lambda: backward(True, False, False), "wgrad": lambda: backward(False, True, False)}

    layouts = {"NCHW": functions(torch.contiguous_format), "NHWC": functions(torch.channels_last)}
    return {name: {layout: layouts[layout][name] for layout in layouts} for name in passes(case)}


def _torch_attention(case, qkv):
    """PyTorch's own choice, and on a GPU cuDNN's attention."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    parts = [part.view(*part.shape[:2], case.heads, case.D).transpose(1, 2).requires_grad_()
             for part in _tensor(qkv, qkv).split(case.heads * case.D, 2)]

    def attend():
        return torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True)

    def backward():
        with torch.enable_grad():
            y = attend()
        return lambda: torch.autograd.grad(y, parts, y.detach(), retain_graph=True)

    ways = {"default": contextlib.nullcontext}
    if gpu.is_array(qkv):
        ways["cudnn"] = functools.partial(sdpa_kernel, SDPBackend.CUDNN_ATTENTION)
    found = {"forward": {}, "backward": {}}
    for name, way in ways.items():
        found["forward"][name] = _inside(way, attend)
        with contextlib.suppress(RuntimeError), way():  # where there is no such kernel
            found["backward"][name] = _inside(way, backward())
    return found


def _inside(way, function):
    def call():
        with way():
            return function()

    return call


def torch_functions(case, *arrays):
    """{pass: {layout or way: function}} of PyTorch."""
    kinds = {Attention: _torch_attention, Dense: _torch_dense}
    return kinds.get(type(case), _torch_conv)(case, *arrays)
