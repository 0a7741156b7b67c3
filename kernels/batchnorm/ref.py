"""Batch normalization, written out, in whatever precision it is given; x is (M,C)."""

import numpy as np


def statistics(x):
    """(mean (C,), var (C,)) of x (M,C)."""
    return x.mean(0), x.var(0)


def running(state, mean, var, count, momentum):
    """The state after one more batch: steps, and the averages of means and of variances divided by count - 1."""
    rate = max(momentum, 1 / (state[0] + 1))
    averages = rate * np.concatenate([mean, var * count / max(1, count - 1)]) + (1 - rate) * state[1:]
    return np.concatenate([state[:1] + 1, averages])


def batchnorm(x, mean, var, gamma, beta, eps, add=None, relu=False):
    """gamma * (x - mean) / sqrt(var + eps) + beta + add, clipped at zero if `relu`."""
    y = gamma * (x - mean) / np.sqrt(var + eps) + beta
    y = y if add is None else y + add
    return np.maximum(y, 0) if relu else y


def wgrad(dy, x, mean, var, eps):
    """(dgamma (C,), dbeta (C,)); dy is the gradient before the rectifier."""
    return (dy * (x - mean) / np.sqrt(var + eps)).sum(0), dy.sum(0)


def dgrad(dy, x, mean, var, gamma, eps):
    """dx (M,C): through x - mean, the variance and the mean."""
    normal, rstd = (x - mean) / np.sqrt(var + eps), 1 / np.sqrt(var + eps)
    by_normal = dy * gamma
    return rstd * (by_normal - by_normal.mean(0) - normal * (by_normal * normal).mean(0))
