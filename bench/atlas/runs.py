"""Runs of the main job, each kept in a file of its own."""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from bench.cluster import mpiexec
from bench.convergence import RECIPES
from mpilayer.base.files import replacing

TOP = Path(__file__).parents[2]
PACKAGES = "mpilayer", "numpy", "numba", "mpi4py"


def machine():
    """Where the figures are from: processor, cores, versions and the commit, None where nothing says so."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    commit = subprocess.run(["git", "-C", TOP, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version(),
            "versions": {name: metadata.version(name) for name in PACKAGES}, "commit": commit.strip() or None}


def command(run, ranks):
    """The whole command line but for --out."""
    net = run.labels["net"]
    return [mpiexec(), "-n", str(ranks), sys.executable, "-m", "mpilayer.train", "--net", net,
            *RECIPES[net].words.split(), *run.words, "--quiet"]


def path_of(folder, run, ranks):
    """Its file: of other options, another one."""
    told = json.dumps([run.labels["net"], RECIPES[run.labels["net"]].words, run.words, ranks])
    return folder / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"


def made(run, ranks):
    """What is kept of a run: its labels, and scores and seconds by epoch, or why it failed."""
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run([*command(run, ranks), "--out", out], env={**os.environ, "OMP_NUM_THREADS": "1"},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                              start_new_session=True)  # an interrupt is not for the run: it would be kept as failed
        record = Path(out, "run.json")
        if done.returncode or not record.exists():
            lines = [line for line in done.stderr.splitlines() if line.startswith("mpilayer:")] or [done.stderr[-200:]]
            return {"labels": run.labels, "words": run.words, "failed": lines[0]}
        found = json.loads(record.read_text())
    recipe, seconds, curve = RECIPES[run.labels["net"]], 0.0, []
    for epoch in found["epochs"]:
        seconds += epoch["seconds"]
        curve.append({"seconds": seconds, "train_loss": epoch["train_loss"], "score": recipe.score(epoch)})
    return {"labels": run.labels, "words": run.words, "steps": found["final"]["steps"], "curve": curve,
            "score": curve[-1]["score"], "seconds": seconds}


def all_of(spec, folder, say):
    """Make the runs that are not there; all of them, in the order of the spec."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = 1 if spec.timed else max(1, (os.cpu_count() or 1) // spec.ranks)
    wanted = list(spec.runs())
    left = [run for run in wanted if not path_of(folder, run, spec.ranks).exists()]
    say(f"{len(wanted)} runs, {len(wanted) - len(left)} of them there already; {jobs} at a time")

    def make(run):
        found = made(run, spec.ranks)
        with replacing(path_of(folder, run, spec.ranks)) as file:
            file.write(json.dumps(found, indent=1))
        say(f"{run.name:60} {found.get('failed') or format(found['score'], '.4f')}")

    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(make, left))
        except BaseException:  # an interrupt, say: what runs is finished and kept, nothing else is begun
            pool.shutdown(cancel_futures=True)
            raise
    return [json.loads(path_of(folder, run, spec.ranks).read_text()) for run in wanted]
