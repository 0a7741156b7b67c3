"""Convolution tap by tap: a matrix product for each, of pixels gathered from all images.

For lines shorter than a tile, and for few pixels.
"""

import math

from kernels import compiled, scratch
from kernels.conv2d.pixels import shifted
from kernels.matmul.cpu import NONE, times, times_transposed

FEW, LARGE = 128, 1 << 14  # pixels, and weights of a tap

jit = compiled.kernel()


def wins(shape, w_shape, groups):
    """Whether packing or transforming large weights costs more than it brings, for so few pixels (N,P,Q,K)."""
    return groups == 1 and math.prod(shape[:3]) <= FEW and w_shape[2] * w_shape[3] >= LARGE


def forward(x, w, bias, relu, y, geometry):
    """y = conv(x, w) + bias; an empty bias is none."""
    (R, S, C, K), (stride, ((top, _), (left, _)), dilation, _) = w.shape, geometry
    seen = scratch.array("seen", (*y.shape[:3], C))
    for r in range(R):
        for s in range(S):
            shifted(x, r * dilation[0] - top, s * dilation[1] - left, stride, seen)
            first, last = r + s == 0, r + s == R + S - 2
            times(seen.reshape(-1, C), w[r, s], bias if first else NONE, relu and last, y.reshape(-1, K), not first)


@jit
def _add_shifted(dy, h, v, stride, dx):
    """Add dy (N,P,Q,C) to the pixels that one tap meets, the first is (h, v); what lies outside is left out."""
    (sh, sw), (N, P, Q, C) = stride, dy.shape
    H, W = dx.shape[1:3]
    for n in range(N):
        for p in range(P):
            for q in range(Q):
                i, j = h + p * sh, v + q * sw
                if 0 <= i < H and 0 <= j < W:
                    source, target = dy[n, p, q], dx[n, i, j]
                    for c in range(C):
                        target[c] += source[c]


def dgrad(dy, w, dx, geometry):
    """Gradient by the input, into dx."""
    (R, S, C, K), (stride, ((top, _), (left, _)), dilation, _) = w.shape, geometry
    part = scratch.array("seen", (*dy.shape[:3], C))
    dx[:] = 0
    for r in range(R):
        for s in range(S):
            times_transposed(dy.reshape(-1, K), w[r, s], part.reshape(-1, C))
            _add_shifted(part, r * dilation[0] - top, s * dilation[1] - left, stride, dx)
