"""PyTorch models on several ranks: two lines, and the loop stays as it is.

    model, optimizer = mpilayer.torch.distribute(model, optimizer, schedule="planned")
"""

try:
    from mpilayer.torch.checkpoint import load, save
    from mpilayer.torch.distribute import SCHEDULES, distribute
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("PyTorch is not installed | try: pip install 'mpilayer[torch]'", name="torch") from None

__all__ = ["SCHEDULES", "distribute", "load", "save"]
