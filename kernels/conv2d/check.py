"""All passes of a convolution, each with the reference's result in float64."""

import numpy as np

from kernels import arguments
from kernels.check_target import HOST, PRODUCTS
from kernels.conv2d import Geometry, bias_grad, conv2d, conv2d_dgrad, conv2d_wgrad, ref, winograd

TRANSFORMED = 2e-5  # where Winograd's transforms are used, which round more
BOUND = PRODUCTS._replace(cpu=TRANSFORMED if winograd.ENABLED else PRODUCTS.cpu)


def geometry(stride=1, padding=0, dilation=1, groups=1):
    """The options as the reference takes them."""
    return Geometry(arguments.pair("check", "stride", stride), arguments.padding("check", padding),
                    arguments.pair("check", "dilation", dilation), groups)


def passes(some, x_shape, w_shape, target=HOST, **options):
    """Yield (pass, result, reference); `some` makes an array of a shape."""
    x, w, b = some(x_shape), some(w_shape), some(w_shape[3:])
    x64, w64, how = x.astype(np.float64), w.astype(np.float64), geometry(**options)
    y64, b64 = ref.conv2d(x64, w64, None, how), b.astype(np.float64)
    x, w, b = target.x(x), target.factor(w), target.w(b)
    yield "conv2d", conv2d(x, w, **options), y64
    yield "conv2d + b", conv2d(x, w, b, **options), y64 + b64
    yield "conv2d + b, relu", conv2d(x, w, b, relu=True, **options), np.maximum(y64 + b64, 0)
    dy = some(y64.shape)
    dy64, dy = dy.astype(np.float64), target.x(dy)
    yield "conv2d_dgrad", conv2d_dgrad(dy, w, x_shape, **options), ref.conv2d_dgrad(dy64, w64, x_shape, how)
    yield "conv2d_wgrad", conv2d_wgrad(x, dy, w_shape, **options), ref.conv2d_wgrad(x64, dy64, w_shape, how)
    yield "bias_grad", bias_grad(dy), ref.bias_grad(dy64)


def passes_of(case, some, target=HOST):
    """The same for a case, at a batch the reference can take."""
    x_shape, w_shape, _ = case.shapes(1 if case.size > 100 or case.channels > 1024 else 2)
    return passes(some, x_shape, w_shape, target, **case.options)
