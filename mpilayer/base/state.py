"""What decides the rest of a run, found in the objects that keep it: each names its attributes in `keeps`."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from kernels import gpu
from mpilayer.base.errors import UserError


class Leaf(NamedTuple):
    """A number, or an array, at `path`: attribute or item `key` of its holder. equal: it is the same on all ranks."""

    path: str
    holder: Any
    key: Any
    value: Any
    equal: bool

    @property
    def is_array(self):
        """Whether its value is an array, which is restored in place."""
        return isinstance(self.value, np.ndarray) or gpu.is_array(self.value)

    def set(self, saved):
        """Give it a value that plain() has made."""
        kind = type(self.value)
        value = dict(saved) if kind is Counter else saved
        if value is not None and self.value is not None:
            value = kind(value)
        if isinstance(self.holder, dict):
            self.holder[self.key] = value
        else:
            setattr(self.holder, self.key, value)


def leaves(keeper, path="", equal=False):
    """Yield the Leaf of every number and array that an object keeps, and what it keeps keeps.

    Its `keeps` is a tuple of attributes: numbers, arrays, layers with weights `w`, objects with a `keeps`, containers
    of numbers, or dictionaries and tuples of any of these. Its `keeps_equal` says whether its arrays are equal on all
    ranks; without one it is as the object that keeps it. Raises UserError if `keeps` is None, or missing.
    """
    names = getattr(keeper, "keeps", None)
    if names is None:
        raise UserError(f"{type(keeper).__name__} | does not say what a checkpoint must hold of it"
                        " | try: a tuple `keeps` with the names of its attributes, empty if there are none")
    equal = getattr(keeper, "keeps_equal", equal)
    for name in names:
        yield from _below(keeper, name, getattr(keeper, name), f"{path}{name}", equal)


def _below(holder, key, value, path, equal):
    if hasattr(value, "w"):
        yield Leaf(path, value, "w", value.w, equal)
    elif hasattr(value, "keeps"):
        yield from leaves(value, f"{path}/", equal)
    elif isinstance(value, dict) and not isinstance(value, Counter):
        for each, part in value.items():
            yield from _below(value, each, part, f"{path}/{each}", equal)
    elif isinstance(value, tuple):
        for each, part in enumerate(value):
            yield from _below(value, each, part, f"{path}/{each}", equal)
    else:
        yield Leaf(path, holder, key, value, equal)


def plain(value):
    """A number, text, or a container of such, as JSON can hold it."""
    if isinstance(value, Counter):
        return [[key, count] for key, count in value.items()]
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, int | float | str | None) else list(value)


class State:
    """What decides the rest of a run, as one rank has it.

    equal    {path: array} of arrays that are equal on all ranks
    own      {path: array} of those that are this rank's own; none of them is a copy
    values   {path: number, text, or a list of such} of this rank

    Arrays are in the order of their paths, the same on all ranks, in whichever order they are given.
    """

    def __init__(self, equal=(), own=(), values=()):
        self.equal, self.own = (dict(sorted(dict(arrays).items())) for arrays in (equal, own))
        self.values = dict(values)

    @classmethod
    def of(cls, keeper, path="", equal=False):
        """What an object keeps, with `path` before all names. Raises UserError if it does not say."""
        shared, own, values = {}, {}, {}
        for leaf in leaves(keeper, path, equal):
            if leaf.is_array:
                (shared if leaf.equal else own)[leaf.path] = leaf.value
            else:
                values[leaf.path] = plain(leaf.value)
        return cls(shared, own, values)

    def __or__(self, other):
        return State(self.equal | other.equal, self.own | other.own, self.values | other.values)


def restore_values(keeper, values, path=""):
    """Give an object the numbers that State.of has found in one like it. Raises UserError for one that is missing.

    Each is set before those after it are looked for, for what there is may depend on it.
    """
    for leaf in leaves(keeper, path):
        if not leaf.is_array:
            if leaf.path not in values:
                raise UserError(f"{leaf.path} | not in the checkpoint | expected one of the same kind of run")
            leaf.set(values[leaf.path])
