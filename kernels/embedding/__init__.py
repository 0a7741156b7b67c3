"""Embedding: a row of a table for each token.

    tokens (N,T) of any integer dtype, each in [0, V)   table (V,C)   positions (at least T,C)   y (N,T,C)

N sequences of T tokens, a vocabulary of V; tables are float32, y and its gradient, too, or bfloat16. On the GPU
no token is looked at before it is used: the row of one that is not in the vocabulary is NaN, and nobody's on the way
back. Every function raises ValueError, naming the operation and the shapes, for anything that does not fit.
"""

import numpy as np

from kernels import gpu
from kernels.arguments import ACTIVATION, implementation, is_array, output, require, tensor


def _tokens(operation, tokens, V):
    good = is_array(tokens) and tokens.dtype.kind in "iu" and tokens.ndim == 2 and tokens.size > 0
    require(good, operation, "tokens must be (N,T) integers, got {} {}", tokens,
            getattr(tokens, "dtype", type(tokens).__name__))
    if not gpu.is_array(tokens):
        _known(operation, tokens, V)
    return tensor(operation, "tokens", tokens.astype(np.int64, copy=False), "NT", np.int64)


def _known(operation, tokens, V):
    wrong = np.argwhere((tokens < 0) | (tokens >= V))
    if len(wrong):
        n, t = wrong[0]
        require(False, operation, "tokens[{},{}] = {} is not in a vocabulary of {}", n, t, tokens[n, t], V)


def _positions(operation, positions, table, tokens):
    """Raise ValueError unless `positions` has a row for each token of a sequence, and the table's channels."""
    fits = positions.shape[1] == table.shape[1] and len(positions) >= tokens.shape[1]
    require(fits, operation, "positions {} must have a row for each of {} places and the channels of the table {}",
            positions, tokens.shape[1], table)


def embedding(tokens, table, positions=None, out=None, *, dtype=np.float32):
    """y (N,T,C): y[n,t] = table[tokens[n,t]], and + positions[t] if given; into `out` if given, else of that dtype.

    table (V,C) and positions (at least T,C) are float32, tokens (N,T) of any integer dtype; y is float32 or
    bfloat16. Raises ValueError for anything that does not fit, and on the CPU for a token outside [0, V).
    """
    table = tensor("embedding", "table", table, "VC")
    tokens = _tokens("embedding", tokens, len(table))
    if positions is not None:
        positions = tensor("embedding", "positions", positions, "TC")
        _positions("embedding", positions, table, tokens)
    kernel = implementation(__name__, "embedding", tokens, table, positions)
    y = output("embedding", out, (*tokens.shape, table.shape[1]), out.dtype if gpu.is_array(out) else dtype,
               like=table, apart=[table] if positions is None else [table, positions])
    kernel.embedding(tokens, table, positions, tensor("embedding", "y", y, "NTC", ACTIVATION))
    return y


def embedding_backward(dy, tokens, dtable, dpositions=None):
    """Write the sums of dy (N,T,C) over each token to dtable (V,C), over each position to dpositions (at least T,C) if
    given.

    Both are float32, dy float32 or bfloat16. Every row is written, with zeros where its token does not
    occur. Tokens are summed in their order, so results do not depend on the number of threads. Raises ValueError as
    embedding does.
    """
    operation = "embedding_backward"
    dy, tokens = tensor(operation, "dy", dy, "NTC", ACTIVATION), _tokens(operation, tokens, len(dtable))
    dtable = output(operation, dtable, (len(dtable), dy.shape[2]), like=dy, apart=[dy])
    require(dy.shape[:2] == tokens.shape, operation, "dy {} and tokens {} must agree", dy, tokens)
    if dpositions is not None:
        tensor(operation, "dpositions", dpositions, "TC")
        _positions(operation, dpositions, dtable, tokens)
        dpositions = output(operation, dpositions, dpositions.shape, like=dy, apart=[dy, dtable])
    implementation(__name__, operation, dy, tokens).embedding_backward(dy, tokens, dtable, dpositions)
