"""Compression in NumPy: the oracle."""

import numpy as np


def topk_encode(gradient, error, k):
    """(indices, values, new error)."""
    total = error + gradient
    upper = (total.view(np.uint32) & 0x7FFFFFFF) >> 16
    indices = np.sort(np.argsort(-upper.astype(np.int64), kind="stable")[:k])
    left = total.copy()
    left[indices] = 0
    return indices, total[indices], left


def topk_decode(indices, values, size):
    """The sum (size,) of each rank's values at their indices, rank after rank."""
    total = np.zeros(size, np.float32)
    for where, what in zip(indices, values, strict=True):
        total[where] += what
    return total


def orthonormal(P):
    """P's columns by Gram-Schmidt in float64."""
    P = P.astype(np.float64)
    for k in range(P.shape[1]):
        before = np.linalg.norm(P[:, k])
        P[:, k] -= P[:, :k] @ (P[:, :k].T @ P[:, k])
        norm = np.linalg.norm(P[:, k])
        P[:, k] = 0 if norm < 1e-30 or norm < 1e-6 * before else P[:, k] / norm
    return P


def lowrank(gradients, errors, Q):
    """(sum that arrives, new errors) of the gradients (R,n,m) of R ranks, one step of PowerSGD from Q (r,m)."""
    M = gradients.astype(np.float64) + errors
    P = orthonormal(sum(m @ Q.T for m in M))
    arrived = P @ sum(P.T @ m for m in M)
    return arrived, M - arrived / len(M)
