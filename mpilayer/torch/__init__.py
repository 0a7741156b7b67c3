"""PyTorch models on several ranks: two lines, and the loop stays as it is.

    model, optimizer = mpilayer.torch.distribute(model, optimizer, schedule="planned")
"""

try:
    from mpilayer.torch.checkpoint import load, save
    from mpilayer.torch.comm_hook import Late, comm_hook
    from mpilayer.torch.distribute import SCHEDULES, distribute
    from mpilayer.torch.process_group import register
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("PyTorch is not installed | try: pip install 'mpilayer[torch]'", name="torch") from None

register()

__all__ = ["SCHEDULES", "Late", "comm_hook", "distribute", "load", "save"]
