"""Many runs of the main job, told by a file: what each axis of them does to the score, with an interval over seeds.

    python -m bench atlas --spec FILE.toml --out DIR

FILE.toml says the question, and the axes; docs/metrics.md describes it. Each run is a file in DIR, so that a run that
is there is not made again. Unless times are measured, as many are made at once as there are cores for.
"""

from bench.atlas.command import main

__all__ = ["main"]
