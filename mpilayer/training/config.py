"""`--config FILE`: options from a TOML file, or from the run.json of a run. What the command line has comes first."""

import tomllib
from itertools import pairwise
from pathlib import Path

from mpilayer.base.cli import flag
from mpilayer.base.errors import UserError
from mpilayer.exchange.settings import AUTO
from mpilayer.report.runs import RUN, record

REPEATED = "slow", "log"  # options that may be given several times
EXCLUDES = {"batch": "batch_per_rank", "batch_per_rank": "batch"}
PLACES = "config", "out", "log", "checkpoint", "checkpoint_every", "keep", "resume"  # a run is repeated elsewhere
ALIKE = "ranks", "mpi", "numpy", "numba", "mpilayer"  # what decides the numbers, beside the options


def add_options(parser):
    """Add it."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="options in TOML, as lr = 0.1; or the run.json of a"
                        " run, to repeat it. The command line has precedence")


def given(words):
    """{option's name: text, True of a switch, or a list of texts} of words of the command line."""
    found = {}
    for word, following in pairwise([*words, "--"]):
        if word.startswith("--"):
            name, has_text, text = word[2:].partition("=")
            name = name.replace("-", "_")
            value = text if has_text else True if following.startswith("--") else following
            found[name] = [*found.get(name, ()), value] if name in REPEATED else value
    return found


def words_of(options):
    """Words of the command line of a {name: value}, as given() and TOML have it; False makes a switch its --no- form.
    """
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            yield flag(name) if each is not False else flag(f"no_{name}")
            if not isinstance(each, bool):
                yield str(each)


def read(path, switches):
    """{name: value} of a file. False is left out but for `switches`, which are on by default. Raises UserError."""
    if path.suffix == ".json":
        return _repeated(record(path, f"the {RUN} of a run, or a TOML file"))
    try:
        return dict(_flat(tomllib.loads(path.read_text()), path, switches))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}) | try: another --config") from None
    except ValueError as error:
        raise UserError(f"{path} is no TOML ({error}) | expected lines such as lr = 0.1") from None


def _flat(table, path, switches):
    """(name, value) of a table and those in it, which only group options."""
    for key, value in table.items():
        name = key.replace("-", "_")
        if isinstance(value, dict):
            yield from _flat(value, path, switches)
        elif name in ("config", "help"):
            raise UserError(f"{path} | {key} is for the command line")
        elif value is not False or name in switches:
            yield name, value


def _repeated(record):
    """The options of a run, with what was measured where they said "auto"."""
    options = {name: value for name, value in record["given"].items() if name not in PLACES}
    return record["measured"] | options


def measured(settings):
    """What run.json says of Settings that were asked for as "auto"."""
    return {name: "none" if value is None else value
            for name in AUTO for value in [getattr(settings, name)]}


def differences(path, facts):
    """Lines on what is not as it was in the run whose run.json is repeated; `facts` as info.environment has them."""
    if path is None or path.suffix != ".json":
        return
    then = record(path, f"the {RUN} of a run")["environment"]
    for name in ALIKE:
        if then.get(name) != facts[name]:
            yield f"{path}: {name} was {then.get(name)}, and is {facts[name]} here: the numbers will not be the same"


def merged(words, choices, expanded):
    """(words, those of them that a file says) of a command line; those of the file that it overrides are left out.

    choices    Choices: an option of a part that is no longer chosen goes with that
    expanded   a function that makes words of their own of all that --schedule can hold
    """
    options = given(words)
    if not isinstance(options.get("config"), str):
        return words, []
    switches = {option.name for choice in choices for part in choice.parts.values() for option in part.options
                if option.type is bool and option.default}
    file = given(expanded([*words_of(read(Path(options["config"]), switches))]))
    over = {_positive(name) for name in (*options, *map(EXCLUDES.get, options)) if name}
    for choice in choices:
        if options.get(choice.name, file.get(choice.name)) != file.get(choice.name):
            over.update(choice.option_names())
    said = [*words_of({name: value for name, value in file.items() if _positive(name) not in over})]
    return [*said, *words], said


def _positive(name):
    return name.removeprefix("no_")
