"""A PyTorch model and its optimizer, data-parallel over MPI."""

import warnings

import torch

from mpilayer.base.errors import UserError
from mpilayer.mpi.ranks import ranks_of_world
from mpilayer.torch.groups import average_buffers
from mpilayer.torch.local import Periodic, check_period
from mpilayer.torch.modes import AfterBackward, Alone, BeforeForward
from mpilayer.torch.scaling import scale_of, skip_first

SCHEDULES = {  # name: (order of messages, arguments of Sums)
    "oneshot": ("backward", {"at_once": False, "bucket": None, "chunk": None}),
    "layerwise": ("backward", {}),
    "planned": ("need", {}),
    "split": ("split", {}),
    "delayed": ("backward", {}),
}
PERIODIC = {  # name: arguments of Periodic, unless others are given
    "local-sgd": {"period": 10, "outer_lr": 1.0, "outer_momentum": 0.0},
    "diloco": {"period": 20, "outer_lr": 0.7, "outer_momentum": 0.9},
}
OVERLAPS = None, "forward"
COMPILED = ("the model is compiled as a whole: its gradients come all at the end of backward, which hides nothing"
            " | try: compiling block by block, for block in model.blocks: block.compile()")


def distribute(model, optimizer, schedule="planned", *, delay=None, overlap=None, clip=None, scaler=None, ranks=None,
               **settings):
    """(model, optimizer) for a training loop as it is: each rank has samples of its own, the gradients are averaged.

    The model is the same object, with hooks, and rank 0's parameters and buffers. In `model.no_sync()` gradients add up
    and are not sent; `model.drain()` ends what is in flight and averages buffers over the ranks, such as the running
    statistics of batch norm; `model.undistribute()` takes the hooks away. All ranks call the latter two together.

    schedule   "oneshot": one sum after backward; "layerwise": one for each module as soon as it has its gradients;
               "planned": the same, and what the next forward reads first overtakes the rest; "split": reduce-scatter
               in backward, all-gather in forward; "delayed": as layerwise, `delay` steps late. Ranks make steps of
               their own and average every `period`-th: "local-sgd"; "diloco": with `outer_lr`, `outer_momentum`
    delay      steps that gradients, or means, are late; "auto", with overlap="forward": as few as hide communication
    overlap    None: after backward `grad` is what step() must apply. "forward": each module is updated just before the
               next forward reads it, and sums travel meanwhile; for optimizers that treat each parameter without regard
               to others. The optimizer that is returned takes the place of the given
    clip       with overlap="forward": largest norm of a step's gradient, as clip_grad_norm_ has it
    scaler     with a delay: the torch.amp.GradScaler of the loop; late gradients get the scale of the step that applies
               them, and what overflowed anywhere is skipped everywhere
    ranks      mpilayer.Ranks; default: those of MPI.COMM_WORLD
    settings   of mpilayer.GradientQueue, such as wire="bfloat16", and those of a schedule with a period

    Raises UserError for a model or an optimizer that does not fit, AgreedError, on all ranks, if they differ.
    """
    ranks = ranks or ranks_of_world()
    _check(model, optimizer, schedule, delay, overlap, clip, scaler)
    if ranks.rank == 0 and _is_compiled(model):
        warnings.warn(COMPILED, stacklevel=2)
    settings.setdefault("progress", _progress(ranks))
    late = (1 if delay is None else delay) if schedule == "delayed" else delay or 0
    mode = _mode(ranks, model, optimizer, schedule, late, overlap, clip, scaler, settings)
    _attach(ranks, model, mode)
    return model, mode if overlap and not isinstance(mode, Alone) else optimizer


def _mode(ranks, model, optimizer, schedule, delay, overlap, clip, scaler, settings):
    """What does the work."""
    if schedule in PERIODIC:
        return _periodic(ranks, model, optimizer, PERIODIC[schedule] | {"delay": delay} | settings)
    if ranks.size == 1 and delay == 0:
        return Alone(ranks, model, optimizer, clip)
    order, how = SCHEDULES[schedule]
    if overlap == "forward":
        first, auto = (0, True) if delay == "auto" else (delay, False)
        return BeforeForward(ranks, model, optimizer, first, order, clip, auto, **how | settings)
    skip_first(scaler, delay)
    return AfterBackward(ranks, model, delay, order, scale_of(scaler), **how | settings)


def _periodic(ranks, model, optimizer, given):
    check_period(given["period"], given["delay"])
    if given["progress"] == "auto":  # a mean every so many steps: what is tried would be over
        given["progress"] = "thread"
    return Periodic(ranks, model, optimizer, **given)


def _progress(ranks):
    """"auto", to be tried, where ranks exchange something, and a thread can get a core."""
    threads = ranks.MPI.Query_thread() >= ranks.MPI.THREAD_SERIALIZED and not ranks.crowded
    return "auto" if ranks.size > 1 and ranks.all(threads) else "poll"


def _is_compiled(model):
    return hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None


def _attach(ranks, model, mode):
    """Let the model have what the loop may call."""
    def drain():
        mode.drain()
        average_buffers(ranks, model)

    def undistribute():
        drain()
        mode.close()
        del model.no_sync, model.drain, model.undistribute, model.distributed

    model.no_sync, model.drain, model.undistribute, model.distributed = mode.no_sync, drain, undistribute, mode


def _check(model, optimizer, schedule, delay, overlap, clip, scaler):
    """Raise UserError for what does not go together."""
    if not isinstance(model, torch.nn.Module):
        raise UserError(f"model | expected a torch.nn.Module, got a {type(model).__name__}")
    if schedule not in SCHEDULES | PERIODIC:
        raise UserError(f"schedule {schedule!r} | expected one of {', '.join(SCHEDULES | PERIODIC)}")
    overlaps = OVERLAPS[:1] if schedule in PERIODIC else OVERLAPS
    if overlap not in overlaps:
        raise UserError(f"overlap {overlap!r} | expected {' or '.join(map(repr, overlaps))}")
    if delay == "auto" and (schedule != "delayed" or overlap is None):
        raise UserError("delay \"auto\" | goes with schedule=\"delayed\" and overlap=\"forward\"")
    if delay not in (None, "auto") and (not isinstance(delay, int) or delay < 0
                                        or (delay and schedule not in ("delayed", *PERIODIC))):
        raise UserError(f"delay {delay!r} | expected a whole number of steps, with schedule=\"delayed\""
                        f" or one of {', '.join(PERIODIC)}")
    if clip is not None and overlap is None:
        raise UserError("clip goes with overlap=\"forward\" | try: torch.nn.utils.clip_grad_norm_ after backward")
    if scaler is not None and (overlap or schedule in PERIODIC):
        raise UserError("a GradScaler looks at the gradients of the step first | try: overlap=None, without a period")
    if hasattr(model, "undistribute"):
        raise UserError("the model is distributed already | try: model.undistribute() before")
    own = {parameter: name for name, parameter in model.named_parameters()}
    strange = [tuple(p.shape) for group in optimizer.param_groups for p in group["params"] if p not in own]
    if strange:
        raise UserError(f"the optimizer has a parameter of shape {strange[0]} that is not the model's | expected"
                        " model.parameters() | try: making the optimizer after the model was moved or changed")
