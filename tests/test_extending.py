"""A schedule, a net, a kernel and a data source are added from files outside, all at once; no package is touched."""

import json
import re

from tests.ranks import mpiexec, train

SCHEDULE = '''
from mpilayer import Option, Schedule
from mpilayer.base.cli import amount

class Damped(Schedule):
    """One-shot with gradients times a factor."""
    options = (Option("damping", "factor of gradients", amount, 1.0),)

    def __init__(self, net, queue, optimizer, damping=1.0):
        super().__init__(net, queue, optimizer)
        self.damping = damping
        queue.open()

    def step(self, t, batch):
        for _ in (*self.net.forward(batch), *self.net.backward()):
            pass
        for layer in self.net.backward_layers:
            self.channel.post(t, layer)
        for layer in self.net.layers:
            for step, gradient in self.channel.settle(layer, t):
                self.optimizer.update(layer, gradient, step, scale=self.damping)

    def drain(self):
        pass
'''
NET = '''
import numpy as np
import nets
from nets.blocks import Flatten, Loss
from nets.composite import Sequence
from nets.layer import Dense
from doubled import double

class Doubled:
    """A block that uses a kernel from outside."""
    def build(self, shape):
        return shape
    def forward(self, x, batch):
        yield from ()
        return double(x)
    def backward(self, dy):
        yield from ()
        return double(dy)

@nets.recipe(hidden="width of the middle")
def two_layers(classes, hidden=24):
    return Sequence(Flatten(), Dense("first", hidden), Doubled(), Dense("last", classes, relu=False), Loss())
'''
KERNEL = {
    "__init__.py": '"""x + x."""\nfrom doubled.cpu import double\n\n__all__ = ["double"]\n',
    "ref.py": '"""In NumPy."""\n\ndef double(x):\n    return x + x\n',
    "cpu.py": '"""In Numba."""\nfrom numba import njit\n\n@njit\ndef double(x):\n    return x + x\n',
    "cases.py": '"""Shapes."""\nfrom typing import NamedTuple\n\nclass Case(NamedTuple):\n    name: str\n'
                '    shape: tuple\n\nCASES = [Case("small", (3, 5)), Case("one", (1, 1))]\n',
    "check.py": '"""Kernel against reference."""\nfrom doubled import double, ref\n'
                'from kernels.check_target import Bound\n\nBOUND = Bound(cpu=1e-6)\n\n'
                'def passes_of(case, draw, place):\n    x = draw(case.shape)\n'
                '    yield "forward", double(place.x(x)), ref.double(x.astype("float64"))\n',
}
DATA = '''
import numpy as np
from mpilayer import Data, in_memory

def halves(seed, ranks):
    """Random images, 1 where the left half is brighter."""
    x = np.random.default_rng(seed).standard_normal((300, 6, 6, 1)).astype(np.float32)
    y = (x[:, :, :3].sum((1, 2, 3)) > x[:, :, 3:].sum((1, 2, 3))).astype(np.int64)
    return Data("halves", x.shape[1:], 2, in_memory(x[:200], y[:200]), in_memory(x[200:], y[200:]))
'''


def test_four_things_from_outside(tmp_path):
    for name, text in {"schedule.py": SCHEDULE, "net.py": NET, "source.py": DATA}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "doubled").mkdir()
    for name, text in KERNEL.items():
        (tmp_path / "doubled" / name).write_text(text)
    checked = mpiexec(1, "-m", "kernels.check", tmp_path / "doubled", PYTHONPATH=_path(tmp_path))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "2 of 2 ok" in checked.stdout
    done = train(2, "--schedule", f"{tmp_path}/schedule.py:Damped+damping=0.5",
                 "--net", f"{tmp_path}/net.py:two_layers", "--hidden", "40", "--data", f"{tmp_path}/source.py:halves",
                 "--epochs", "40", "--lr", "0.05", "--out", tmp_path / "out", PYTHONPATH=_path(tmp_path))
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["config"]["damping"] == 0.5
    assert run["config"]["hidden"] == 40
    assert float(re.findall(r"accuracy +([\d.]+)%", done.stdout)[-1]) > 80


def _path(folder):
    from tests.ranks import TOP

    return f"{folder}:{TOP}"
