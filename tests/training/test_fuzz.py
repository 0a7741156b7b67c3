"""Random command lines: each is refused in one line that names what is wrong, or it runs."""

import contextlib
import io
import random

from mpilayer import train as main_job
from mpilayer.base.errors import UserError
from mpilayer.schedules import SCHEDULES
from mpilayer.training.options import parser
from tests.ranks import on_ranks

SEED, LINES = 17, 250
VALUES = ["nan", "inf", "-inf", "1e308", "-1e308", "1e-308", "-0", "0", "-1", "1", "2", "7", "0.5", "1.5", "", " ", "é",
          "名前", "\x1b[31m", "a\nb", "9" * 30, "-" + "9" * 30, "2147483648", "18446744073709551616", "true", "None",
          "[1, 2]", "1,2", "1:2", "0:3", "x" * 300, "--lr", "%s", "{}", "/", "../..", "1k", "64k", "1x1x1", "8x8x1",
          "32x32x3", "auto", "none", "all"]
MILD = ["0", "1", "2", "3", "0.5", "0.01", "auto", "none"]
# A run that is not refused is short, whatever else it is told.
SHORT = ["--quiet", "--steps", "1", "--epochs", "1", "--batch", "8", "--progress", "poll", "--bucket", "0", "--chunk",
         "none"]
TAKES_LONG = {"--help", "--out", "--device", "--precision", "--steps", "--epochs", "--slow", "--jitter", "--timeout",
              "--quiet", "--config", "--log"}  # or is said elsewhere
NETS, DATA = ["alexnet-mini", "resnet-mini"], ["digits", "synthetic", "nothing", "nothing.h5", "idx:/nowhere"]


def flags():
    """{option: the values that it has, or None}."""
    return {action.option_strings[0]: action.choices and list(action.choices)
            for action in parser(main_job.NET)._actions if action.option_strings[0] not in TAKES_LONG}


def line(rng, known):
    """One to four random options; half of the time with a schedule."""
    words = []
    for name in rng.sample(sorted(known), rng.randint(1, 3)):
        if name in ("--net", "--data", "--schedule"):
            continue
        own = known[name] or MILD
        value = rng.choice(own if rng.random() < 0.6 else [*own, *VALUES])
        words += [f"{name}={value}"] if rng.random() < 0.5 else [name, value]
    if rng.random() < 0.5:
        words += ["--schedule", rng.choice([*SCHEDULES, "delayed:2", "delayed:-1", "ps+staleness=nan", ":", "+", ""])]
    if rng.random() < 0.2:
        words += ["--net", rng.choice([*NETS, *VALUES[:16]])]
    if rng.random() < 0.2:
        words += ["--data", rng.choice([*DATA, *VALUES[:16]])]
    given = {word.split("=")[0] for word in words}
    short = [word for place, word in enumerate(SHORT)
             if word not in given and not (place and SHORT[place - 1] in given and SHORT[place - 1] != "--quiet")]
    return [*short, *words]


def outcome(ranks, words):
    """"ran", or the message with which it was refused."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            main_job.run(ranks, words)
    except UserError as error:
        return str(error)
    return "ran"


@on_ranks(1, 2, seconds=240)
def test_random_command_lines(ranks):
    rng, known, ran = random.Random(SEED), flags(), 0
    for number in range(LINES):
        words = line(rng, known)
        ranks.where = f"line {number} of seed {SEED}: {words}"
        found = outcome(ranks, words)
        assert ranks.gather(found) == [found] * ranks.size, words
        assert found == "ran" or ("\n" not in found and len(found) > 10), words
        ran += found == "ran"
    assert LINES / 20 < ran < LINES, "some of each"
