"""The definition in NumPy, in whatever precision it is given: the oracle."""


def matmul(a, b, transpose_a=False, transpose_b=False):
    """c[...,m,n] = sum over k of a[...,m,k] * b[...,k,n]."""
    return (a.swapaxes(-1, -2) if transpose_a else a) @ (b.swapaxes(-1, -2) if transpose_b else b)
