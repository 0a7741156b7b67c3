"""Gradients and weights on their way between ranks: the request queue, and messages between two."""
