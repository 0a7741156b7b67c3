"""The command line: argument types, options that belong to a part, parts that are chosen by name or from a file."""

import argparse
import contextlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mpilayer.base.errors import UserError


class Parser(argparse.ArgumentParser):
    """Raises UserError for bad arguments, so that all ranks together can report it."""

    def error(self, message):
        """Raise UserError."""
        raise UserError(f"{message} | try: {self.prog} --help")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but for those that are nothing, or that the text has already."""

    def _get_help_string(self, action):
        told = action.default in (None, False) or "(default:" in action.help
        return action.help if told else super()._get_help_string(action)


def number(kind, least, what, most=math.inf):
    """An argparse type: a number of that kind, from `least` to `most`."""
    def convert(text):
        limit = ""
        with contextlib.suppress(ValueError, OverflowError):
            value = kind(text)
            if least <= value <= most and math.isfinite(value):
                return value
            limit = f", at most {most:,}" if math.isfinite(value) and value > most else ""
        raise argparse.ArgumentTypeError(f"expected {what}{limit}, got {text!r}")

    return convert


MANY = 10**12  # of whatever is counted: more would not come to an end
count = number(int, 1, "a positive whole number", MANY)
natural = number(int, 0, "a whole number, not negative", 2**63 - 1)
FLOAT32 = 3.4e38
amount = number(float, 0, "a number, not negative", FLOAT32)


def natural_or(*words):
    """An argparse type: a whole number, not negative, or one of those words."""
    steps = number(int, 0, f"a whole number, not negative, or {' or '.join(words)}", MANY)
    return lambda text: text if text in words else steps(text)


positive = number(float, 1e-9, "a positive number", FLOAT32)


def below_one(text):
    """An argparse type: a number from 0, less than 1."""
    value = amount(text)
    if value >= 1:
        raise RangeError(f"{value}: expected less than 1")
    return value


def share(text):
    """An argparse type: a positive number of at most 1."""
    value = positive(text)
    if value > 1:
        raise RangeError(f"{value}: expected at most 1")
    return value


class RangeError(Exception):
    """A number of the right kind, out of range; the option's name goes before the message."""


def folder(text):
    """An argparse type: a Path, not the empty one, which is the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected the name of a folder, got ''")
    return Path(text)


def image_shape(text):
    """An argparse type: HxWxC as a tuple."""
    try:
        sizes = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        sizes = ()
    if len(sizes) != 3 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected HxWxC, as in 32x32x3, got {text!r}")
    return sizes


def size_in_bytes(text):
    """An argparse type: bytes as in 65536, 64k, 4m; auto; or none for no limit (None)."""
    if text in ("auto", "none"):
        return text if text == "auto" else None
    factor = {"k": 2**10, "m": 2**20, "g": 2**30}.get(text[-1:].lower(), 1)
    digits = text if factor == 1 else text[:-1]
    if not digits.isdecimal() or (factor > 1 and int(digits) == 0):
        raise argparse.ArgumentTypeError(f"expected bytes as in 65536, 64k or 4m, auto or none, got {text!r}")
    return int(digits) * factor


class Option(NamedTuple):
    """A keyword argument of a part (a schedule, a net, ...) that is an option of the command line as well.

    name      of the keyword argument; outer_lr is --outer-lr
    help      what --help says of it
    type      a function from the text to the value, as argparse takes it; bool makes the option a switch, with a
              --no- of its own if the default is True
    default   the value if the option is not given
    metavar   what --help writes for the value
    choices   the values that are allowed; None: all
    late      of an optimizer: whether it is for schedules that apply late gradients, and for no others
    """

    name: str
    help: str
    type: Callable = str
    default: Any = None
    metavar: str | None = None
    choices: Any = None
    late: bool = False

    @property
    def flag(self):
        """As it is written."""
        return flag(self.name)

    def checked(self, value):
        """A value given in Python, as it would be read from the command line. Raises UserError."""
        if value == self.default:
            return value
        try:
            if self.type is bool or self.choices:
                good = value in (self.choices or (False, True))
            else:
                good = self.type(str(value)) == value
        except (argparse.ArgumentTypeError, RangeError) as error:
            raise UserError(f"{self.name} {value!r} | {error}") from None
        if not good:
            raise UserError(f"{self.name} {value!r} | expected {', '.join(self.choices or ('True', 'False'))}")
        return value


def flag(name):
    """A keyword argument's name as the command line has it."""
    return f"--{name.replace('_', '-')}"


class Choice:
    """An option whose values name parts, {name: part}; each part has `options`, those that belong to it.

    It also takes MODULE:NAME and FILE.py:NAME, a part of the user's own, unless `own` is None; own(object) is the part
    made of what has that name. Raises UserError for what cannot be loaded.
    """

    def __init__(self, name, parts, default, help, own=None):
        self.name, self.parts, self.default, self.help, self.own = name, dict(parts), default, help, own

    def add(self, parser, chosen=None, late=()):
        """Add the option and those of its parts to a parser; a type that parts disagree on is the chosen part's. `late`
        names the schedules that apply late gradients, for the help.
        """
        how = {"choices": self.parts} if self.own is None else {"type": self._checked, "metavar": "NAME"}
        names = "" if self.own is None else f": {', '.join(self.parts)}, or MODULE:NAME or FILE.py:NAME of your own"
        parser.add_argument(flag(self.name), default=self.default, help=self.help + names, **how)
        for name in self.option_names():
            self._add_option(parser, name, chosen, late)

    def option_names(self):
        """Names of the options of all parts, in order, each once."""
        return list(dict.fromkeys(option.name for part in self.parts.values() for option in part.options))

    def _having(self, name):
        """{part's name: its Option of that name}."""
        return {key: option for key, part in self.parts.items() for option in part.options if option.name == name}

    def _add_option(self, parser, name, chosen, late):
        having = self._having(name)
        first = having.get(chosen) or next(iter(having.values()))
        told = {}
        for key, option in having.items():
            text = f"{', '.join(late)}: {option.help}" if option.late else option.help
            told.setdefault((text, option.default), []).append(key)
        text = "; ".join(f"{', '.join(keys)}: {help}{_default(default)}" for (help, default), keys in told.items())
        switch = argparse.BooleanOptionalAction if first.default else "store_true"
        how = ({"action": switch, "default": None} if first.type is bool else
               {"type": _of_option(first), "metavar": first.metavar, "choices": first.choices})
        try:
            parser.add_argument(first.flag, help=text.replace("%", "%%"), **how)
        except argparse.ArgumentError:
            raise UserError(f"{flag(self.name)} {next(iter(having))}: {first.flag} is an option of the job already"
                            " | try: another name for it") from None

    def _checked(self, text):
        if wrong := self._unknown(text):
            raise argparse.ArgumentTypeError(wrong)
        self.load(text, flag(self.name))
        return text

    def _unknown(self, text):
        """What is wrong with a name that is neither known nor that of a module or file; None if nothing is."""
        if text in self.parts or ":" in text:
            return None
        return f"invalid choice: {text!r} (choose from {', '.join(map(repr, self.parts))})"

    def load(self, text, where=None):
        """The part of that name, or of that module or file. Raises UserError, whose message calls the choice `where`,
        or by its name.
        """
        where = where or self.name
        if wrong := self._unknown(text):
            raise UserError(f"{where}: {wrong}")
        if text not in self.parts:
            self.parts[text] = self.own(load(text, where, self.parts))
        return self.parts[text]

    def complete(self, options, *, shown=True):
        """Give the chosen part's options their defaults. Raises UserError for one that is given and belongs to others;
        `shown`: the message has its value.
        """
        chosen = getattr(options, self.name)
        own = {option.name: option for option in self.parts[chosen].options}
        for name in sorted(self.option_names()):
            value = getattr(options, name)
            if value is None:
                setattr(options, name, own[name].default if name in own else None)
            elif name not in own:
                told = f" {value}" if shown and value is not True else ""
                raise UserError(f"{flag(name)}{told} goes with {flag(self.name)} {' or '.join(self._having(name))},"
                                f" not {chosen}")

    def shown(self, options):
        """In words: the chosen part and its options that are not the defaults."""
        chosen = getattr(options, self.name)
        values = [f"{option.name.replace('_', ' ')} {getattr(options, option.name)}" for option in
                  self.parts[chosen].options if getattr(options, option.name) != option.default]
        return chosen + (f" ({', '.join(values)})" if values else "")

    def keywords(self, options):
        """The keyword arguments of the chosen part, from completed options."""
        part = self.parts[getattr(options, self.name)]
        return {option.name: getattr(options, option.name) for option in part.options}


def _default(value):
    return "" if value is None or value is False else f" (default: {value})"


def _of_option(option):
    """Its type, with its name before a complaint about the range."""
    def convert(text):
        try:
            return option.type(text)
        except RangeError as error:
            raise UserError(f"{option.flag} {error}") from None

    return convert


def load(text, where, known):
    """What MODULE:NAME or FILE.py:NAME names. Raises UserError; if there is no such module, it has the known names."""
    source, _, name = text.rpartition(":")
    try:
        module = _from_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
        return getattr(module, name)
    except AttributeError:
        raise UserError(f"{where} {text}: there is no {name} in {source}") from None
    except Exception as error:  # whatever the user's code raises while it is imported
        absent = isinstance(error, ModuleNotFoundError) and f"{source}.".startswith(f"{error.name}.")
        names = f"one of {', '.join(known)}, or " if absent else ""
        raise UserError(f"{where} {text}: {source} cannot be imported ({type(error).__name__}: {error})"
                        f" | try: {names}python -c 'import {Path(source).stem}'") from error


def _from_file(path):
    """The module in a file, imported once."""
    name = f"mpilayer_user_{path.resolve().as_posix().replace('/', '_')[:-3]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]
