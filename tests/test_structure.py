"""The rules of the house that a program can hold."""

import ast
import re
import sys

import pytest

from bench import __main__ as bench
from bench import kernels, memory, step
from kernels.rooms import rooms
from mpilayer.compression import COMPRESSORS
from mpilayer.data import AUGMENTS, SOURCES
from mpilayer.mpi.progress import PROGRESS
from mpilayer.mpi.reductions import REDUCTIONS
from mpilayer.schedules import SCHEDULES
from mpilayer.schedules.layerwise import APPLY
from mpilayer.train import NET
from mpilayer.training.optim import OPTIMIZERS
from mpilayer.training.options import parser
from mpilayer.training.rates import POLICIES
from tests.ranks import TOP

HOUSE = {"kernels", "nets", "mpilayer", "bench", "tests"}
FILES = {file.relative_to(TOP).as_posix(): file
         for package in HOUSE - {"tests"} for file in (TOP / package).rglob("*.py")}
ROOMS = rooms()

MAY_IMPORT = {"kernels": set(), "nets": {"kernels"}, "mpilayer": {"kernels"}, "bench": {"kernels", "nets", "mpilayer"},
              **dict.fromkeys(("mpilayer/train.py", "mpilayer/trained.py", "mpilayer/export.py",
                             "mpilayer/training/net_choice.py"), {"kernels", "nets"})}
# sub-packages of mpilayer, each of which may import those before it
FLOORS = ("base", "report", "mpi", "storage", "data", "compression", "exchange", "gpu", "model", "schedules",
          "training", "torch", "jax")
LONG_FUNCTIONS = {  # of more than 40 lines, and why
    "kernels/micro.py:_variant",  # the generator of the micro-kernel, whose parts share what it has in registers
    "bench/peer_torch.py:run",  # one case after the other, each in two lines
}
LIBRARIES = {"kernels": {"numpy", "numba", "llvmlite"}, "nets": {"numpy"}}  # those not listed may use any
LATER = {"cupy", "ml_dtypes", "onnx"}  # when a GPU or an export is wanted, and no earlier


def imports(tree):
    """Top packages that a piece of code imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def at_once(tree):
    """Top packages imported when the module is, not later inside a function."""
    if isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return
    if isinstance(tree, ast.Import | ast.ImportFrom):
        yield from imports(tree)
    for node in ast.iter_child_nodes(tree):
        yield from at_once(node)


def test_the_rules_see_what_they_forbid():
    tree = ast.parse("import a.b, c\nfrom d.e import f\nfrom . import g\nif 1:\n  import h\ndef i(): import j")
    assert set(imports(tree)) == {"a", "c", "d", "h", "j"}
    assert set(at_once(tree)) == {"a", "c", "d", "h"}
    assert {name.split("/")[0] for name in FILES} == HOUSE - {"tests"}
    assert {"conv2d", "dense", "update", "activation"} <= set(ROOMS)


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_go_one_way(name):
    package, tree = name.split("/")[0], ast.parse(FILES[name].read_text())
    allowed = MAY_IMPORT.get(name, MAY_IMPORT[package]) | {package}
    assert set(imports(tree)) & HOUSE <= allowed
    if package in LIBRARIES:
        libraries = set(imports(tree)) - HOUSE - set(sys.stdlib_module_names)
        assert libraries <= LIBRARIES[package] | LATER
    assert not LATER & set(at_once(tree))


def modules(tree):
    """Dotted names of our modules that a piece of code imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.split(".")[0] in HOUSE:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in HOUSE)


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("mpilayer/") and name.count("/") > 1))
def test_imports_within_mpilayer_go_one_way(name):
    floor = FLOORS.index(name.split("/")[1])
    imported = {module.split(".")[1] for module in modules(ast.parse(FILES[name].read_text()))
                if module.startswith("mpilayer.")}
    assert imported <= set(FLOORS[:floor + 1])


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_are_short(name):
    assert len(FILES[name].read_text().splitlines()) <= 300


@pytest.mark.parametrize("name", sorted(FILES))
def test_functions_are_short(name):
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.FunctionDef) and f"{name}:{node.name}" not in LONG_FUNCTIONS:
            assert node.end_lineno - node.lineno < 40, node.name


def test_each_sub_package_is_tested_in_a_folder_of_its_name():
    folders = {folder.name for folder in (TOP / "tests").iterdir() if list(folder.glob("test_*.py"))}
    assert folders >= {*FLOORS, "kernels", "nets", "bench"} - {"base"}


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_its_furniture(room):
    found = {file.name for file in (TOP / "kernels" / room).iterdir()}
    assert {"__init__.py", "ref.py", "cpu.py", "cases.py", "check.py", "cuda.py"} <= found
    assert "cuda.cu" in found or room == "dense"  # which has the products of matmul


@pytest.mark.parametrize(("registry", "text"), [
    *((registry, parser(NET).format_help()) for registry in (
        NET.parts, SCHEDULES, PROGRESS, APPLY, REDUCTIONS, COMPRESSORS, POLICIES, OPTIMIZERS, AUGMENTS, SOURCES)),
    (kernels.PEERS, kernels.parser().format_help()),
    (step.PEERS, step.parser().format_help()),
    (memory.PEERS, memory.parser().format_help()),
    (bench.COMMANDS, bench.overview()),
], ids=["nets", "schedules", "progress", "apply", "reductions", "wires", "policies", "optimizers", "augments",
        "sources", "peers of kernels", "peers of steps", "peers of memory", "commands"])
def test_help_shows_every_name_of_a_registry(registry, text):
    assert type(registry) is dict
    assert registry
    assert set(registry) <= set(re.findall(r"[\w:.-]+", text.replace(",", " ")))
