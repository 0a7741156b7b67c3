"""A data source of the user's own: a file, and nothing else."""

import json

import pytest

from mpilayer.base.errors import UserError
from mpilayer.data import DATA, SOURCES, DataError, open_data
from mpilayer.train import NET
from mpilayer.training.options import parser
from tests.ranks import TOP, train

RINGS = TOP / "examples" / "new_data.py"

HALVES = '''
import numpy as np
from mpilayer.data import Data, in_memory

def halves(seed, ranks):
    labels = np.arange(256) % 2
    bright = np.arange(8) // 4 == labels[:, None]
    images = bright[:, None, :, None] + np.random.default_rng(seed).normal(0, 0.3, (256, 8, 8, 1))
    images = images.astype(np.float32)
    return Data("halves", (8, 8, 1), 2, in_memory(images[:192], labels[:192]), in_memory(images[192:], labels[192:]))
'''
TOKENS = '''
import numpy as np
from mpilayer import Option
from mpilayer.data import Data, Source

class Counting:
    def __init__(self, context):
        self.context = context

    def __len__(self):
        return 64

    def read(self, indices, epoch=None):
        x = (np.asarray(indices)[:, None] + np.arange(self.context)) % 16
        return x, (x + 1) % 16

def open_counting(*, seed, ranks, context):
    return Data("counting", (context,), 16, Counting(context), Counting(context))

counting = Source(open_counting, "tokens", (Option("context", "tokens in a sample", int, 12),),
                  like=lambda shape, classes: {"context": shape and shape[0]})
'''
IMPORTS = '''
import numpy as np
from mpilayer.data import Data, in_memory
x = np.zeros((9, 8, 8, 1), np.float32)
'''
GOOD = "in_memory(x, np.arange(9) % 2)"


@pytest.fixture
def own(tmp_path):
    """own(content, name) writes a file of the user's and returns what --data calls it."""
    def write(content, name):
        path = tmp_path / "mine.py"
        path.write_text(content)
        return f"{path}:{name}"

    return write


def test_a_function_in_a_file_is_trained_on(own, tmp_path):
    done = train(2, "--data", own(HALVES, "halves"), "--epochs", 8, "--batch", 32, "--out", tmp_path / "out",
                 seconds=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["final"]["test_accuracy"] > 0.9


def test_the_example_is_trained_on_with_an_option_of_its_own(tmp_path):
    done = train(1, "--data", f"{RINGS}:rings", "--noise", 0.1, "--steps", 96, "--out", tmp_path, seconds=300)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["config"]["noise"] == 0.1
    assert run["final"]["test_accuracy"] > 0.9


def test_options_come_as_asked_for_then_as_the_net_has_them_then_by_default(own):
    source = own(TOKENS, "counting")
    net = ((20,), 256)
    assert open_data(source).shape == (12,)
    assert open_data(source, like=net).shape == open_data("text", like=net).shape == (20,)
    assert open_data(source, like=((32, 32, 3), 10)).shape == (12,)  # of a net of images
    assert open_data(source, like=(None, None)).shape == (12,)
    assert open_data(source, like=net, context=7).train.read([3])[0].tolist() == [[3, 4, 5, 6, 7, 8, 9]]
    assert open_data("synthetic", like=((9, 8, 1), 5)).shape == (9, 8, 1)
    assert open_data("synthetic", like=(None, 5)).classes == 5
    assert open_data("text", like=(None, None)).shape == (256,)


def test_images_of_a_function_have_windows_and_a_validation_part(own):
    data = open_data(own(HALVES, "halves"), shape=(6, 5, 1), augment="crop", validation=0.25, seed=3)
    assert (data.shape, len(data.train), len(data.test)) == ((6, 5, 1), 144, 48)
    assert data.train.read([0, 1], epoch=1)[0].shape == (2, 6, 5, 1)


def test_help_shows_all_sources_and_the_options_of_ones_own():
    DATA.load(f"{RINGS}:rings")
    text = " ".join(parser(NET).format_help().split())
    assert ", ".join(SOURCES) in text
    assert "--noise NOISE" in text
    assert "standard deviation of a pixel's noise (default: 0.5)" in text
    assert "--data" in text


@pytest.mark.parametrize(("body", "parts"), [
    ("def f(seed, ranks): return [1, 2]", ["expected Data to be returned, got list"]),
    ("def f(seed, ranks):\n    1 / 0", ["ZeroDivisionError: division by zero", "line 7 of", "mine.py"]),
    ("def f(): pass", ["TypeError", "unexpected keyword argument"]),
    ("def f(seed, ranks): return np.linalg.inv(np.zeros(3))", ["LinAlgError"]),
    (f"def f(seed, ranks): return Data('f', (8, 8), 2, {GOOD}, {GOOD})", ["shape (H,W,C) or (T,), got (8, 8)"]),
    (f"def f(seed, ranks): return Data('f', (8, 0, 1), 2, {GOOD}, {GOOD})", ["each size of the shape", "got 0"]),
    (f"def f(seed, ranks): return Data('f', (8, 8, 1), 0, {GOOD}, {GOOD})", ["classes", ">= 1, got 0"]),
    (f"def f(seed, ranks): return Data('f', (8, 8, 1), 1, {GOOD}, {GOOD})", ["f | train", "labels in 0..0, got 0..1"]),
    (f"def f(seed, ranks): return Data('f', (8, 8, 1), 2, {GOOD}, x)", ["f | test", "expected a Part, got ndarray"]),
    (f"def f(seed, ranks): return Data('f', (8, 8, 1), 2, {GOOD}, ())", ["f | test", "at least one sample"]),
    (f"def f(seed, ranks): return Data('f', (8, 8, 3), 2, {GOOD}, {GOOD})", ["float32 (1, 8, 8, 1)", "(1, 8, 8, 3)"]),
    ("def f(seed, ranks): return in_memory(x.astype(float), np.arange(9))", ["images |", "got float64 (9, 8, 8, 1)"]),
    ("def f(seed, ranks): return in_memory(x, np.arange(8))", ["labels |", "expected integer (9,)"]),
])
def test_what_is_wrong_with_a_users_function_is_said_in_one_line(own, body, parts):
    with pytest.raises(DataError) as error:
        open_data(own(f"{IMPORTS}\n{body}", "f"))
    for part in (" | try: ", *parts):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_names_that_cannot_be_loaded(own, tmp_path):
    for source, part in ((f"{tmp_path}/none.py:f", "none.py cannot be imported (FileNotFoundError"),
                         ("no_such_module:f", "no_such_module cannot be imported (ModuleNotFoundError"),
                         (own(IMPORTS, "f"), "there is no f in"),
                         (own(IMPORTS, "x"), "expected a Source, or a function of seed and ranks that returns Data")):
        with pytest.raises(UserError, match="--data") as error:
            open_data(source)
        assert part in str(error.value)
    for source in ("text:", "idx:", ":f", "https://example.org/x", f"{tmp_path}/mine.py:"):
        with pytest.raises(DataError, match="unknown source"):
            open_data(source)


def test_an_option_that_a_source_has_not(own):
    with pytest.raises(DataError, match="expected no noise or context: this source has its own"):
        open_data(own(HALVES, "halves"), noise=3, context=8)


def test_the_command_line_says_it_without_a_traceback(own, tmp_path):
    for source, part in ((own(f"{IMPORTS}\ndef f(seed, ranks): return 3", "f"), "mine.py:f | expected Data"),
                         (f"{tmp_path}/none.py:f", "cannot be imported")):
        done = train(1, "--data", source)
        assert done.returncode == 2
        assert done.stderr.startswith("mpilayer: ")
        assert part in done.stderr
        assert done.stderr.count("\n") == 1
