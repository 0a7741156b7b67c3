"""What a net is made from: a function that lists its blocks, and what it was published for."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """What a net is made from.

    blocks    a function blocks(classes, **sizes) that returns the net's body, one block
    shape     of the samples that the net was published for, (H,W,C) or (T,); None: that of the data
    classes   that the net was published for; None: those of the data
    sizes     {keyword argument of `blocks`: what it means}
    """

    blocks: Callable
    shape: tuple | None = None
    classes: int | None = None
    sizes: Any = ()


def recipe(shape=None, classes=None, **sizes):
    """A decorator that makes a Recipe of a function blocks(classes, **sizes).

    shape, classes   as in Recipe
    sizes            for each keyword argument of the function a sentence about what it means
    """
    return lambda blocks: Recipe(blocks, shape, classes, sizes)


def recipe_of(blocks):
    """A Recipe: `blocks` itself, or made of a plain function blocks(classes, **sizes). Raises ValueError for others."""
    if isinstance(blocks, Recipe):
        return blocks
    if not inspect.isfunction(blocks):
        raise ValueError(f"{blocks!r} is no net: expected a function blocks(classes, **sizes)")
    return Recipe(blocks, sizes=dict.fromkeys(list(inspect.signature(blocks).parameters)[1:], "see its source"))
