"""PyTorch models on several ranks: two lines, and the loop stays as it is.

    model, optimizer = mpilayer.torch.distribute(model, optimizer, schedule="planned")
"""

from mpilayer.torch.checkpoint import load, save
from mpilayer.torch.distribute import SCHEDULES, distribute

__all__ = ["SCHEDULES", "distribute", "load", "save"]
