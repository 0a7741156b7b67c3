"""Attention with all scores at once, in whatever precision it is given: the oracle."""

import numpy as np


def _split(qkv, heads):
    """q, k, v as (N,heads,T,D)."""
    N, T, C3 = qkv.shape
    return qkv.reshape(N, T, 3, heads, C3 // 3 // heads).transpose(2, 0, 3, 1, 4)


def _joined(*parts):
    """(N,heads,T,D) each, side by side as (N,T,parts * heads * D)."""
    N, heads, T, D = parts[0].shape
    return np.stack(parts).transpose(1, 3, 0, 2, 4).reshape(N, T, len(parts) * heads * D)


def _probabilities(q, k):
    """(softmax of the scores up to the diagonal, log of the sums of exponentials)."""
    T, D = q.shape[2:]
    scores = np.where(np.tri(T, dtype=bool), q @ k.swapaxes(2, 3) / np.sqrt(D), -np.inf)
    lse = np.log(np.exp(scores - scores.max(3, keepdims=True)).sum(3)) + scores.max(3)
    return np.exp(scores - lse[..., None]), lse


def attention(qkv, heads):
    """(y (N,T,C), lse (N,heads,T))."""
    q, k, v = _split(qkv, heads)
    p, lse = _probabilities(q, k)
    return _joined(p @ v), lse


def attention_backward(dy, qkv, heads):
    """By the chain rule through v, the softmax and the scores."""
    q, k, v = _split(qkv, heads)
    p, _ = _probabilities(q, k)
    N, heads, T, D = q.shape
    dout = dy.reshape(N, T, heads, D).transpose(0, 2, 1, 3)
    dp = dout @ v.swapaxes(2, 3)
    ds = p * (dp - (p * dp).sum(3, keepdims=True)) / np.sqrt(D)
    return _joined(ds @ k, ds.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ dout)
