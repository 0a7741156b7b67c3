"""Nets as the command line offers them: their sizes are options, and they must fit the data."""

from typing import NamedTuple

import nets
from mpilayer.base.cli import Choice, Option, amount, number
from mpilayer.base.errors import UserError
from mpilayer.data import DATA, batches, samples_of
from mpilayer.gpu import device

SIZE = number(int, 1, "a positive whole number", 65_536)
TYPES = {int: SIZE, float: amount, bool: bool, str: str}  # of sizes of nets, by what their defaults are


class NetPart(NamedTuple):
    """A net as the command line offers it: its Recipe, its sizes as Options, and data that it takes."""

    recipe: nets.Recipe
    options: tuple
    data: str


def _size(name, what, default):
    """The Option of a size of a net; a default that no option can have stays with the net."""
    kind = type(default)
    if kind not in TYPES:
        return Option(name, what, SIZE)
    if kind in (int, float) and default <= 0:
        return Option(name, what, number(kind, default, f"a number, at least {default}"), default)
    return Option(name, what, TYPES[kind], default)


def _part(blocks):
    try:
        recipe = nets.recipe_of(blocks)
    except ValueError as error:
        raise UserError(f"--net: {error}") from None
    defaults = recipe.defaults
    sizes = tuple(_size(name, what, defaults.get(name)) for name, what in dict(recipe.sizes).items())
    return NetPart(recipe, sizes, DATA.default_for(recipe.shape))


NET = Choice("net", {name: _part(recipe) for name, recipe in nets.NETS.items()}, "alexnet-mini", "what to train", _part)


def _fits(net, shape, source):
    """Raise UserError for a net of images and data of tokens, or the other way round."""
    wanted, got = samples_of(shape), samples_of(source.shape)
    if wanted not in (got, None):
        raise UserError(f"{net} takes {wanted}, {source.name} has {got}"
                        f" | try: --data {DATA.default_for(shape)}, or another --net")


def _made(options, source):
    """The net for these samples. Raises UserError."""
    where = {name: getattr(options, name) for name in ("device", "precision", "seed")}
    sizes = {name: value for name, value in NET.keywords(options).items() if value is not None}
    try:
        with device.room(f"the weights of {options.net}"):
            return nets.build(NET.parts[options.net].recipe, classes=source.classes, shape=source.shape, **where,
                              **sizes)
    except nets.ShapeError as error:
        raise UserError(f"{options.net} cannot take samples of {source.shape} from {source.name}: {error}"
                        " | try: larger ones, or another --net") from None
    except ValueError as error:
        raise UserError(f"--net {options.net}: {error}") from None


def made_for(options, source):
    """The net for a source. Raises UserError."""
    batches(len(source.train), options.batch, seed=options.seed, epoch=0)  # says if there are too few samples
    _fits(options.net, NET.parts[options.net].recipe.shape, source)
    try:
        return _made(options, source)
    except MemoryError as error:
        raise UserError(f"not enough memory for {options.net} on {options.data}: {error}"
                        " | try: a smaller --shape or --net, or fewer ranks on a machine") from None
