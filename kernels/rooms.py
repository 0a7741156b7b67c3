"""Finds rooms, the folders that hold all of one operation: ours by their names, others by their paths."""

import functools
import importlib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

HERE = Path(__file__).parent


def rooms(having="check.py"):
    """The sorted names of our rooms, or of those with another file."""
    return sorted(file.parent.name for file in HERE.glob(f"*/{having}"))


@functools.cache
def package(room):
    """The name of a room's package: kernels.ROOM, or of a folder elsewhere, which is imported here, its own name.

    Raises ValueError for what is neither, and for a folder whose name another module has.
    """
    if room in rooms():
        return f"kernels.{room}"
    folder = Path(room).resolve()
    if not all((folder / file).is_file() for file in ("__init__.py", "check.py")):
        raise ValueError(f"no room {room}: expected one of {', '.join(rooms())}, or the path of a folder with"
                         " __init__.py and check.py")
    if folder.name in sys.modules:
        raise ValueError(f"{room}: a module {folder.name} is in use already | try another name for the folder")
    spec = spec_from_file_location(folder.name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    sys.modules[folder.name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[folder.name])
    return folder.name


def part(room, name):
    """The module `name` of a room: part("conv2d", "cases") is kernels.conv2d.cases. Raises ValueError as package does.
    """
    return importlib.import_module(f"{package(room)}.{name}")
