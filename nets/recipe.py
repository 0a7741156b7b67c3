"""What a net is made from: a function that lists its blocks, and what it was published for."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """blocks(classes, **sizes) makes the net's body.

    shape, classes   of the samples it was published for, (H,W,C) or (T,); None: those of the data
    sizes            {keyword argument of `blocks`: what it means}
    """

    blocks: Callable
    shape: tuple | None = None
    classes: int | None = None
    sizes: Any = ()


def recipe(shape=None, classes=None, **sizes):
    """A decorator: the Recipe of a function blocks(classes, **sizes); `sizes` say what its keyword arguments mean."""
    return lambda blocks: Recipe(blocks, shape, classes, sizes)


def recipe_of(blocks):
    """The Recipe itself, or that of a plain function blocks(classes, **sizes). Raises ValueError for something else."""
    if isinstance(blocks, Recipe):
        return blocks
    if not inspect.isfunction(blocks):
        raise ValueError(f"{blocks!r} is no net: expected a function blocks(classes, **sizes)")
    return Recipe(blocks, sizes=dict.fromkeys(list(inspect.signature(blocks).parameters)[1:], "see its source"))
