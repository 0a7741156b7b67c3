"""Losses that a torch.amp.GradScaler multiplies, with gradients that are applied later."""

CALLS = "unscale_", "step", "update"


def scale_of(scaler):
    """A function of what it multiplies losses by now; 1.0 without one."""
    return scaler.get_scale if scaler else lambda: 1.0


def skip_first(scaler, steps):
    """Let it do nothing in so many steps: there is no gradient yet, which it takes for an error."""
    left = steps

    def update(*_, **__):
        nonlocal left
        left -= 1
        if left == 0:
            for name in CALLS:
                delattr(scaler, name)

    if scaler and steps:
        scaler.unscale_ = scaler.step = lambda *_, **__: None
        scaler.update = update
