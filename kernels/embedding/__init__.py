"""Embedding: a row of a table for each token.

    tokens (N,T) of any integer dtype, each in [0, V)   table (V,C)   positions (at least T,C)   y (N,T,C)

N sequences of T tokens, a vocabulary of V; tables and y are float32. Every function raises ValueError, naming the
operation and the shapes, for anything that does not fit.
"""

import numpy as np

from kernels.arguments import output, require, tensor
from kernels.embedding import cpu
from kernels.threads import share


def _tokens(operation, tokens, V):
    good = isinstance(tokens, np.ndarray) and tokens.dtype.kind in "iu" and tokens.ndim == 2 and tokens.size > 0
    require(good, operation, "tokens must be (N,T) integers, got {} {}", tokens,
            getattr(tokens, "dtype", type(tokens).__name__))
    wrong = np.argwhere((tokens < 0) | (tokens >= V))
    if len(wrong):
        n, t = wrong[0]
        require(False, operation, "tokens[{},{}] = {} is not in a vocabulary of {}", n, t, tokens[n, t], V)
    return np.ascontiguousarray(tokens, np.int64)


def _positions(operation, positions, table, tokens):
    fits = positions.shape[1] == table.shape[1] and len(positions) >= tokens.shape[1]
    require(fits, operation, "positions {} must have a row for each of {} places and the channels of the table {}",
            positions, tokens.shape[1], table)


def embedding(tokens, table, positions=None, out=None):
    """y[n,t] = table[tokens[n,t]], and + positions[t] if given; into `out` if given."""
    table = tensor("embedding", "table", table, "VC")
    tokens = _tokens("embedding", tokens, len(table))
    if positions is not None:
        positions = tensor("embedding", "positions", positions, "TC")
        _positions("embedding", positions, table, tokens)
    apart = [table] if positions is None else [table, positions]
    y = output("embedding", out, (*tokens.shape, table.shape[1]), apart=apart)
    share(len(y), lambda a, b: cpu.embedding(tokens[a:b], table, positions, y[a:b]))
    return y


def embedding_backward(dy, tokens, dtable, dpositions=None):
    """Write the sums of dy (N,T,C) of each token to dtable (V,C), those of each place to dpositions (at least T,C).

    A row is written once, whether its token occurs or not. Tokens are summed in their order, in any number of threads.
    """
    operation = "embedding_backward"
    dy, tokens = tensor(operation, "dy", dy, "NTC"), _tokens(operation, tokens, len(dtable))
    dtable = output(operation, dtable, (len(dtable), dy.shape[2]), apart=[dy])
    require(dy.shape[:2] == tokens.shape, operation, "dy {} and tokens {} must agree", dy, tokens)
    cpu.sum_by(tokens.reshape(-1), dy, dtable)
    if dpositions is not None:
        tensor(operation, "dpositions", dpositions, "TC")
        _positions(operation, dpositions, dtable, tokens)
        dpositions = output(operation, dpositions, dpositions.shape, apart=[dy, dtable])
        cpu.sum_by(np.tile(np.arange(tokens.shape[1]), len(tokens)), dy, dpositions)
