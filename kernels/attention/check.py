"""Attention and its gradient, each with the reference's result in float64."""

import numpy as np

from kernels.attention import attention, attention_backward, ref
from kernels.check_target import HOST, PRODUCTS

BOUND = PRODUCTS._replace(bfloat16=8e-3)  # probabilities are rounded before they are multiplied, too


def passes(qkv, dy, heads, target=HOST):
    """Yield (pass, result, reference)."""
    qkv64, dy64 = qkv.astype(np.float64), dy.astype(np.float64)
    qkv, dy = map(target.x, (qkv, dy))
    y, lse = attention(qkv, heads)
    y64, lse64 = ref.attention(qkv64, heads)
    yield "attention", y, y64
    yield "lse", lse, lse64
    yield "attention_backward", attention_backward(dy, qkv, y, lse), ref.attention_backward(dy64, qkv64, heads)


def passes_of(case, some, target=HOST):
    """The same for two sequences of a case at most; `some` makes an array of a shape."""
    (shape,) = case.shapes(min(case.N, 2))
    return passes(some(shape), some((*shape[:2], shape[2] // 3)), case.heads, target)
