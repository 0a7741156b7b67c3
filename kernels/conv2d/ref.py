"""The obvious convolution in NumPy, in whatever precision it is given: the oracle."""

import numpy as np


def _windows(x, w_shape, geometry):
    """All R x S windows of the padded image, (N,P,Q,C,R,S)."""
    stride, padding, dilation, _ = geometry
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    reach = [apart * (window - 1) + 1 for apart, window in zip(dilation, w_shape[:2], strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, (1, 2))
    return windows[:, ::stride[0], ::stride[1], :, ::dilation[0], ::dilation[1]]


def _split(array, groups, axis):
    return np.split(array, groups, axis)


def conv2d(x, w, b, geometry, relu=False):
    """y[n,p,q,k] = b[k] + sum over r, s, c of x[n, p*stride+r*apart-top, q*stride+s*apart-left, c] * w[r,s,c,k]."""
    windows, filters = _split(_windows(x, w.shape, geometry), geometry.groups, 3), _split(w, geometry.groups, 3)
    y = np.concatenate([np.einsum("npqcrs,rsck->npqk", a, v, optimize=True)
                        for a, v in zip(windows, filters, strict=True)], axis=3)
    y = y if b is None else y + b
    return np.maximum(y, 0) if relu else y


def conv2d_dgrad(dy, w, x_shape, geometry):
    """Scatter dy * w back to the pixels each output was made from."""
    stride, ((top, bottom), (left, right)), dilation, groups = geometry
    N, H, W, C = x_shape
    R, S = w.shape[:2]
    P, Q = dy.shape[1:3]
    dx = np.zeros((N, H + top + bottom, W + left + right, C), dy.dtype)
    for r in range(R):
        for s in range(S):
            parts = [np.einsum("npqk,ck->npqc", d, v) for d, v in
                     zip(_split(dy, groups, 3), _split(w[r, s], groups, 1), strict=True)]
            y0, x0 = r * dilation[0], s * dilation[1]
            dx[:, y0:y0 + P * stride[0]:stride[0], x0:x0 + Q * stride[1]:stride[1]] += np.concatenate(parts, axis=3)
    return dx[:, top:top + H, left:left + W]


def conv2d_wgrad(x, dy, w_shape, geometry):
    """dw[r,s,c,k] = sum over n, p, q of x[n, p*stride+r*apart-top, q*stride+s*apart-left, c] * dy[n,p,q,k]."""
    windows, gradients = _split(_windows(x, w_shape, geometry), geometry.groups, 3), _split(dy, geometry.groups, 3)
    return np.concatenate([np.einsum("npqcrs,npqk->rsck", a, d, optimize=True)
                           for a, d in zip(windows, gradients, strict=True)], axis=3)


def bias_grad(dy):
    """db[k] = sum over everything else."""
    return dy.reshape(-1, dy.shape[-1]).sum(0)
