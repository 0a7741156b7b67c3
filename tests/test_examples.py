"""The examples do what they say; their files are what docs/ shows."""

import re
import textwrap

import pytest

from tests.ranks import TOP, mpiexec, train

EXAMPLES = TOP / "examples"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_own_loop(count):
    done = mpiexec(count, EXAMPLES / "own_loop.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert float(re.match(r"([\d.]+)% of the last points are right\n$", done.stdout)[1]) > 85


def test_the_loop_of_the_readme_settles_every_step(tmp_path):
    code = re.search(r"^    import mpilayer\n(?:(?:    .*)?\n)+", (TOP / "README.md").read_text(), re.MULTILINE)[0]
    given = "import numpy\nw1, w2 = numpy.zeros(3, 'f4'), numpy.zeros((2, 2), 'f4')\nsteps, lr = 3, 0.5\n"
    checked = "    assert queue.drained\n    assert all((parameters[name] == -1.5).all() for name in parameters)\n"
    program = tmp_path / "loop.py"
    program.write_text(given + textwrap.dedent(code).rstrip().replace("[...] = ...", "[...] = 1") + "\n" + checked)
    done = mpiexec(2, program)
    assert (done.returncode, done.stderr) == (0, "")


def test_own_loop_is_short():
    assert len((EXAMPLES / "own_loop.py").read_text().splitlines()) < 50


def accuracy(done):
    assert done.returncode == 0, done.stderr
    return float(re.findall(r"test accuracy +([\d.]+)%", done.stdout)[-1])


def test_new_schedule():
    name = f"{EXAMPLES / 'new_schedule.py'}:Accumulated"
    assert accuracy(train(2, "--schedule", name, "--every", 4, "--epochs", 8, "--lr", 0.02)) > 60
    assert accuracy(train(2, "--schedule", f"{name}+every=1", "--epochs", 3)) == accuracy(train(2, "--epochs", 3))
    help = train(1, "--schedule", name, "--help").stdout
    assert re.search(r"--every N +\S+Accumulated:", help)


def test_new_net():
    name = f"{EXAMPLES / 'new_net.py'}:plain"
    assert accuracy(train(2, "--net", name, "--width", 32, "--epochs", 8, "--lr", 0.02)) > 60
    assert "channels of the first convolution" in " ".join(train(1, "--net", name, "--help").stdout.split())


def test_modern_nets():
    name = f"{EXAMPLES / 'modern_nets.py'}:convnext"
    assert accuracy(train(2, "--net", name, "--width", 16, "--depth", 1, "--stem", 1, "--epochs", 8,
                          "--optimizer", "adamw", "--lr", 0.002)) > 40


@pytest.mark.parametrize(("words", "message"), [
    ("--schedule {}/new_schedule.py:Nothing", "there is no Nothing in"),
    ("--schedule {}/nowhere.py:Some", "cannot be imported (FileNotFoundError"),
    ("--schedule no.such.module:Some", "cannot be imported (ModuleNotFoundError"),
    ("--schedule {}/new_net.py:plain", "is no schedule | expected a subclass of mpilayer.Schedule"),
    ("--net {}/new_schedule.py:Accumulated", "is no net: expected a function"),
    ("--net {}/new_schedule.py:count", "returned 10: expected a block"),
    ("--schedule {}/new_schedule.py:Accumulated --every 0", "argument --every: expected a positive whole number"),
    ("--every 2", "unrecognized arguments: --every 2"),
    ("--net {}/new_net.py:plain --width 0.5", "argument --width: expected a positive whole number"),
    ("--schedule delayd:1", "--schedule delayd:1: delayd cannot be imported"),
    ("--schedule delayed:1 --delay 2", "--schedule delayed:1: --delay is given twice"),
])
def test_what_cannot_be_used(words, message):
    done = train(1, *words.format(EXAMPLES).split(), "--steps", "1")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
