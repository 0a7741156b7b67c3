"""Embedding in NumPy, in whatever precision it is given."""

import numpy as np


def embedding(tokens, table, positions=None):
    """table[tokens], and + positions if given."""
    y = table[tokens]
    return y if positions is None else y + positions[:tokens.shape[1]]


def embedding_backward(dy, tokens, table_rows, position_rows):
    """(dtable, dpositions), with so many rows."""
    dtable, dpositions = np.zeros((table_rows, dy.shape[2])), np.zeros((position_rows, dy.shape[2]))
    np.add.at(dtable, tokens, dy)
    dpositions[:dy.shape[1]] = dy.sum(0)
    return dtable, dpositions
