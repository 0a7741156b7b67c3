"""Many runs of the main job, told by a file: what each axis does to the score, with intervals over seeds."""

import argparse
import json
from pathlib import Path

from bench.atlas import runs, table
from bench.atlas.spec import Spec
from bench.rows import console
from mpilayer.base.errors import UserError
from mpilayer.base.files import replacing
from mpilayer.report import plots


def parser():
    """All options."""
    p = argparse.ArgumentParser(prog="python -m bench atlas", description=__doc__)
    p.add_argument("--spec", type=Path, required=True, metavar="FILE.toml", help="what to run, as in bench/atlas/specs")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the runs and the table are kept")
    plots.add_option(p, "the score of each row against the columns, with intervals")
    return p


def main(argv):
    """Make the runs, print the table, and write it."""
    options = parser().parse_args(argv)
    spec, say = Spec.read(options.spec), console(width=200).print
    try:
        found = runs.all_of(spec, options.out / "runs", say)
        told = [spec.question, "", *table.lines(spec, found)]
        for name, text in (("about.json", json.dumps(runs.machine(), indent=1)), ("table.md", "\n".join([*told, ""]))):
            with replacing(options.out / name) as file:
                file.write(text)
    except OSError as error:
        raise UserError(f"{options.out} | {error.strerror} | try: another --out") from None
    say("\n".join(told), markup=False)
    if options.plot:
        table.draw(spec, found, options.plot)
