"""Embedding and its gradients, each with the reference's result in float64."""

import numpy as np

from kernels.check_target import HOST, Bound
from kernels.embedding import embedding, embedding_backward, ref

BOUND = Bound()


def passes(tokens, table, positions, dy, target=HOST):
    """Yield (pass, result, reference)."""
    table64, positions64 = table.astype(np.float64), positions.astype(np.float64)
    given, dy64, dy = tokens, dy.astype(np.float64), target.x(dy)
    tokens, dtable, dpositions = (target.w(a) for a in (tokens, np.full_like(table, np.nan),
                                                       np.full_like(positions, np.nan)))
    table, positions = target.w(table), target.w(positions)
    yield "embedding", embedding(tokens, table, dtype=dy.dtype), ref.embedding(given, table64)
    yield "+ positions", embedding(tokens, table, positions, dtype=dy.dtype), ref.embedding(given, table64, positions64)
    embedding_backward(dy, tokens, dtable, dpositions)
    want = ref.embedding_backward(dy64, given, len(table), len(positions))
    yield "dtable", dtable, want[0]
    yield "dpositions", dpositions, want[1]


def passes_of(case, some, target=HOST):
    """The same for a case; `some` makes an array of a shape."""
    return passes(case.tokens(), some((case.V, case.C)), some((case.P, case.C)), some((case.N, case.T, case.C)), target)
