"""Schedules by name, as measurements take them: NAME[:DELAY][+OPTION[=VALUE]]..., options of the main job."""

import nets
from mpilayer.training.options import read_options


def words(text):
    """As in delayed:1+momentum-correction+delay-warmup=400: the options of the main job."""
    name, *flags = text.split("+")
    name, _, delay = name.partition(":")
    return ["--schedule", name, *(["--delay", delay] if delay else []), *(f"--{flag}" for flag in flags)]


def entrant(text, ranks, *more):
    """The options themselves, completed, for so many ranks; `more` are words before. Raises UserError."""
    return read_options([*more, *words(text), "--batch-per-rank", "1"], nets.NETS, ranks)
