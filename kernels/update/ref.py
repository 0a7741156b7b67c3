"""The update rule in NumPy, in whatever precision it is given: the oracle."""


def momentum_update(w, g, v, lr, momentum, weight_decay):
    """New (w, v)."""
    v = momentum * v + lr * (g + weight_decay * w)
    return w - v, v
