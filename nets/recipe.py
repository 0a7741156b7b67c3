"""What a net is made from: a function that lists its blocks, and what it was published for."""

import inspect
from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """What a net is made from.

    blocks    a function blocks(classes, **sizes) that returns the net's body, one block
    shape     of the samples that the net was published for, (H,W,C) or (T,); None: that of the data
    classes   that the net was published for; None: those of the data
    sizes     {keyword argument of `blocks`: what it means}
    modules   modules(layer's name) returns the names that torchvision has for its convolution, or whatever it is, and
              for its batch normalization; None: torchvision has no such net
    """

    blocks: Callable
    shape: tuple | None = None
    classes: int | None = None
    sizes: Any = ()
    modules: Callable | None = None

    @property
    def defaults(self):
        """{keyword argument of `blocks`: its default, None if it has none}."""
        keywords = list(inspect.signature(self.blocks).parameters.values())[1:]
        return {each.name: None if each.default is each.empty else each.default for each in keywords
                if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}

    def body(self, name, classes, sizes):
        """The block that `blocks` makes; `name` is the net's, for messages.

        Raises ValueError for sizes that it does not take, for classes that are no positive whole number, for a size
        that is none where the default is a whole number (a smaller default is the least), and if it returns no block.
        """
        try:
            inspect.signature(self.blocks).bind(classes, **sizes)
        except TypeError as error:
            raise ValueError(f"{name}: {error} (its sizes: {', '.join(self.defaults) or 'none'})") from None
        for key, value in {"classes": classes, **sizes}.items():
            default = {"classes": 1, **self.defaults}.get(key)
            if type(default) is int and not whole(value, min(1, default)):
                raise ValueError(f"{name}: {key}={value!r}, expected a whole number, at least {min(1, default)}")
        body = self.blocks(classes, **sizes)
        if not hasattr(body, "build"):
            raise ValueError(f"{name} returned {body!r}: expected a block, such as nets.composite.Sequence")
        return body


def whole(value, least=1):
    """Whether it is a whole number, at least that."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least


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
    made = Recipe(blocks)
    return made._replace(sizes=dict.fromkeys(made.defaults, "see its source"))
