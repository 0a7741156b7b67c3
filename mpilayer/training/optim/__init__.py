"""Optimizers, layer by layer."""

from mpilayer.training.optim.base import Optimizer, check
from mpilayer.training.optim.elementwise import AdamW, MomentumSGD
from mpilayer.training.optim.muon import Muon

OPTIMIZERS = {"sgd": MomentumSGD, "adamw": AdamW, "muon": Muon}

__all__ = ["OPTIMIZERS", "AdamW", "MomentumSGD", "Muon", "Optimizer", "check"]
