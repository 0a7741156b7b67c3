"""The weights of a run: written as weights.h5, read from it or from a PyTorch state dict in safetensors."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from kernels.gpu import fetch
from mpilayer.base.errors import UserError
from mpilayer.base.files import replaced

FILE, SAFETENSORS = "weights.h5", ".safetensors"
FORMAT, VERSION = "mpilayer weights", 1
REMEDY = "a run folder with weights.h5, such a file, or one of safetensors"


class Weights(NamedTuple):
    """What has been trained.

    arrays   {name: array}: of weights.h5 each layer's parameters and running statistics, as in conv1/weight; of
             safetensors a PyTorch state dict
    about    {name: value} of the net, its sizes, classes and shape, the data, and the accuracy; empty of safetensors
    path     where it was read
    """

    arrays: dict[str, np.ndarray]
    about: dict[str, Any]
    path: Path

    @property
    def is_state_dict(self):
        """Whether names and layouts are PyTorch's."""
        return not self.about


def write_weights(path, net, about):
    """Write a net's arrays, and what is `about` them, to an HDF5 file, which is whole or as it was. Raises OSError."""
    with replaced(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "about": json.dumps(about)})
        for name, array in net.arrays.items():
            file.create_dataset(name, data=fetch(array))


def read_weights(path):
    """The Weights of a run's folder, of a file weights.h5, or of one with a PyTorch state dict, *.safetensors.

    Raises UserError for what cannot be read.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file} | no such file | try: {REMEDY}")
    return _read_safetensors(file) if file.suffix == SAFETENSORS else _read_hdf5(file)


def _read_hdf5(file):
    try:
        with h5py.File(file, "r") as found:
            known = found.attrs.get("format"), found.attrs.get("version")
            arrays, about = {}, json.loads(found.attrs.get("about", "{}"))
            found.visititems(lambda name, item: arrays.update({name: item[()]}) if hasattr(item, "shape") else None)
    except Exception as error:  # which one h5py raises for a damaged file depends on the byte that is wrong
        raise UserError(f"{file} | cannot be read ({error}) | try: {REMEDY}") from None
    if known != (FORMAT, VERSION):
        raise UserError(f"{file} | expected {FORMAT}, version {VERSION}, got {known[0]}, version {known[1]}"
                        f" | try: {REMEDY}")
    return Weights(arrays, about, file)


def safetensors():
    """The module safetensors.numpy. Raises UserError if it is not installed."""
    try:
        import safetensors.numpy
    except ImportError:
        raise UserError("safetensors is not installed | try: pip install 'mpilayer[export]'") from None
    return safetensors.numpy


def _read_safetensors(file):
    module = safetensors()
    try:
        return Weights(module.load_file(file), {}, file)
    except Exception as error:  # it has no common class of errors; numbers that NumPy lacks raise others
        raise UserError(f"{file} | cannot be read ({type(error).__name__}: {error}) | try: writing it again, in"
                        " float32") from None
