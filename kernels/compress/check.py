"""Every way of compressing, each with the reference's result."""

import numpy as np

from kernels.check_target import HOST, Bound
from kernels.compress import lowrank_expand, lowrank_orthonormalize, lowrank_project, ref, topk_decode, topk_encode
from kernels.gpu import fetch

BOUND = Bound()


def largest(gradients, errors, k, target=HOST):
    """(sum that arrives, new errors) of the gradients (R,size) of R ranks; errors change in target on the host."""
    gradients, errors = target.w(gradients), target.w(errors)
    packed, out = target.w(np.zeros((len(gradients), 2 * k), np.int32)), target.w(np.empty_like(fetch(gradients[0])))
    for gradient, error, words in zip(gradients, errors, packed, strict=True):
        topk_encode(gradient, error, words)
    topk_decode(packed, out)
    return out, errors


def factored(gradients, errors, Q, target=HOST):
    """The same of matrices (R,n,m) by factors, from Q (r,m), which the host turns."""
    R, P = len(gradients), target.w(np.empty((len(gradients), gradients.shape[1], len(Q)), np.float32))
    gradients, errors, Q = target.w(gradients.copy()), target.w(errors), target.w(Q)
    for gradient, error, part in zip(gradients, errors, P, strict=True):
        lowrank_project(gradient, error, Q, part)
    Qs = np.empty((R, *Q.shape), np.float32)
    total = fetch(P).sum(0)
    for gradient, part in zip(fetch(gradients), Qs, strict=True):
        basis = total.copy()
        lowrank_orthonormalize(gradient, basis, part)
    basis, Q = target.w(basis), target.w(Qs.sum(0))
    for gradient, error in zip(gradients, errors, strict=True):
        lowrank_expand(gradient, error, basis, Q, R)
    return gradients[0], errors


def passes(gradients, errors, Q, k, target=HOST):
    """Yield (pass, result, reference) for the gradients (R,n,m) of R ranks."""
    flat, left = gradients.reshape(len(gradients), -1), errors.reshape(len(errors), -1)
    parts = [ref.topk_encode(g, e, k) for g, e in zip(flat, left, strict=True)]
    got = largest(flat, left.copy(), k, target)
    yield "topk", got[0], ref.topk_decode([p[0] for p in parts], [p[1] for p in parts], flat.shape[1])
    yield "topk error", got[1], np.stack([p[2] for p in parts])
    got, want = factored(gradients, errors.copy(), Q, target), ref.lowrank(gradients, errors, Q)
    yield "lowrank", got[0], want[0]
    yield "lowrank error", got[1], want[1]


def passes_of(case, some, target=HOST):
    """The same for a case; `some` makes an array of a shape."""
    shape = case.ranks, case.rows, case.columns
    yield from passes(some(shape), some(shape) * np.float32(0.1), some((case.rank, case.columns)),
                      max(1, case.rows * case.columns // 50), target)
