"""Embedding and its gradients, each with the reference's result in float64."""

import numpy as np

from kernels.embedding import embedding, embedding_backward, ref


def passes(tokens, table, positions, dy):
    """Yield (pass, result, reference)."""
    table64, positions64 = table.astype(np.float64), positions.astype(np.float64)
    yield "embedding", embedding(tokens, table), ref.embedding(tokens, table64)
    yield "+ positions", embedding(tokens, table, positions), ref.embedding(tokens, table64, positions64)
    dtable, dpositions = np.full_like(table, np.nan), np.full_like(positions, np.nan)
    embedding_backward(dy, tokens, dtable, dpositions)
    want = ref.embedding_backward(dy.astype(np.float64), tokens, len(table), len(positions))
    yield "dtable", dtable, want[0]
    yield "dpositions", dpositions, want[1]


def passes_of(case, some):
    """The same for a case; `some` makes an array of a shape."""
    return passes(case.tokens(), some((case.V, case.C)), some((case.P, case.C)), some((case.N, case.T, case.C)))
