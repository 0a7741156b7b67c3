"""What is to be run, from a TOML file."""

import itertools
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

from bench.convergence import RECIPES
from mpilayer.base.errors import UserError

AXES = ("net", "seed")  # that every spec has
FIELDS = {"question": str, "nets": list, "seeds": list, "rows": list, "columns": str, "axes": dict}
MORE = {"ranks": (int, 2), "options": (str, ""), "timed": (bool, False)}


class Run(NamedTuple):
    """One run: {axis: label}, and the words of its command line after the net's recipe."""

    labels: dict
    words: tuple

    @property
    def name(self):
        """In words."""
        return " ".join(f"{axis}={label}" for axis, label in self.labels.items())


class Spec(NamedTuple):
    """What a file says.

    question   that the runs answer                      nets, seeds   axes of their own
    axes       {axis: {label: words}}                    options       words for all runs
    ranks      of each run                               timed         whether times count: then one run at a time
    rows       axes that make the rows of the table      columns       the axis that makes its columns
    """

    question: str
    nets: list
    seeds: list
    rows: list
    columns: str
    axes: dict
    ranks: int
    options: str
    timed: bool

    @classmethod
    def read(cls, path):
        """Of a file. Raises UserError for one that cannot be read, or says something else."""
        try:
            found = tomllib.loads(Path(path).read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UserError(f"{path} | {error} | expected a TOML file, as in bench/atlas/specs") from None
        given = {name: found.pop(name, default) for name, (_, default) in MORE.items()}
        kinds = FIELDS | {name: kind for name, (kind, _) in MORE.items()}
        if found.keys() != FIELDS.keys():
            raise UserError(f"{path} | {', '.join(sorted(found.keys() ^ FIELDS.keys()))}"
                            f" | expected {', '.join(FIELDS)}, and perhaps {', '.join(MORE)}")
        spec = cls(**found, **given)
        for name, kind in kinds.items():
            if type(getattr(spec, name)) is not kind:
                raise UserError(f"{path} | {name} | expected a {kind.__name__}, got {getattr(spec, name)!r}")
        spec.check(path)
        return spec

    def check(self, path):
        """Raise UserError for what is not known, or named twice."""
        unknown = [net for net in self.nets if net not in RECIPES]
        if unknown or not self.nets or not self.seeds:
            raise UserError(f"{path} | nets {self.nets}, seeds {self.seeds} | expected some of {', '.join(RECIPES)},"
                            " and whole numbers")
        for axis, labels in self.axes.items():
            words = labels.values() if isinstance(labels, dict) else [None]
            if axis in AXES or not all(isinstance(each, str) for each in words):
                raise UserError(f"{path} | axes.{axis} | expected a table of options by label: \"1\" = \"--delay 1\"")
        shown = sorted([*self.rows, self.columns])
        if shown != sorted({*self.axes, "net"}):
            raise UserError(f"{path} | rows {self.rows}, columns {self.columns!r} | expected each of"
                            f" {', '.join(['net', *self.axes])} once")

    def runs(self):
        """Every Run, seed by seed, so that all of a kind are there early."""
        axes = (labels.items() for labels in self.axes.values())
        for seed, net, *chosen in itertools.product(self.seeds, self.nets, *axes):
            labels = {"net": net, **{axis: label for axis, (label, _) in zip(self.axes, chosen, strict=True)}}
            words = [*shlex.split(self.options), *(word for _, text in chosen for word in shlex.split(text))]
            yield Run(labels | {"seed": seed}, (*words, "--seed", str(seed)))
