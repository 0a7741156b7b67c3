"""Every way of compressing, each with the reference's result."""

import numpy as np

from kernels.compress import lowrank_expand, lowrank_project, lowrank_turn, ref, topk_decode, topk_encode


def largest(gradients, errors, k):
    """(sum that arrives, new errors) of the gradients (R,size) of R ranks; errors change in place."""
    packed, out = np.zeros((len(gradients), 2 * k), np.int32), np.empty(gradients.shape[1], np.float32)
    for gradient, error, words in zip(gradients, errors, packed, strict=True):
        topk_encode(gradient, error, words)
    topk_decode(packed, out)
    return out, errors


def factored(gradients, errors, Q):
    """The same of matrices (R,n,m) by factors, from Q (r,m)."""
    gradients, R = gradients.copy(), len(gradients)
    P = np.empty((R, gradients.shape[1], len(Q)), np.float32)
    for gradient, error, part in zip(gradients, errors, P, strict=True):
        lowrank_project(gradient, error, Q, part)
    Qs = np.empty((R, *Q.shape), np.float32)
    total = P.sum(0)
    for gradient, part in zip(gradients, Qs, strict=True):
        turned = total.copy()
        lowrank_turn(gradient, turned, part)
    for gradient, error in zip(gradients, errors, strict=True):
        lowrank_expand(gradient, error, turned, Qs.sum(0), R)
    return gradients[0], errors


def passes(gradients, errors, Q, k):
    """Yield (pass, result, reference) for the gradients (R,n,m) of R ranks."""
    flat, left = gradients.reshape(len(gradients), -1), errors.reshape(len(errors), -1)
    parts = [ref.topk_encode(g, e, k) for g, e in zip(flat, left, strict=True)]
    got = largest(flat, left.copy(), k)
    yield "topk", got[0], ref.topk_decode([p[0] for p in parts], [p[1] for p in parts], flat.shape[1])
    yield "topk error", got[1], np.stack([p[2] for p in parts])
    got, want = factored(gradients, errors.copy(), Q), ref.lowrank(gradients, errors, Q)
    yield "lowrank", got[0], want[0]
    yield "lowrank error", got[1], want[1]


def passes_of(case, some):
    """The same for a case; `some` makes an array of a shape."""
    shape = case.ranks, case.rows, case.columns
    yield from passes(some(shape), some(shape) * np.float32(0.1), some((case.rank, case.columns)),
                      max(1, case.rows * case.columns // 50))
