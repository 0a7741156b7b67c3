"""NumPy's functions on arrays of the device, in the order of a stream."""

import numpy as np
from cupy import emulator
from cupy.emulator import streams

submit = streams.put


def _array_type():
    from cupy.emulator.arrays import ndarray
    return ndarray


def _map(function, value):
    """The value with a function applied to every device array in it."""
    if isinstance(value, _array_type()):
        return function(value)
    if type(value) in (tuple, list):
        return type(value)(_map(function, part) for part in value)
    if type(value) is dict:
        return {name: _map(function, part) for name, part in value.items()}
    return value


def check(*values):
    """Refuse arrays of the host, wherever they are."""
    for value in values:
        if isinstance(value, np.ndarray):
            raise TypeError(f"Unsupported type {type(value)}")
        if type(value) in (tuple, list):
            check(*value)


def host(value):
    """NumPy's view of device arrays: for work that a stream does, not for the host's reading."""
    return _map(lambda array: array._host, value)


def wrap(values, base):
    """NumPy's view of a device array's memory as a device array."""
    return _array_type()._of(values, base)


def fresh(values):
    """A device array, not yet filled, of the shape and type of a NumPy array."""
    values = np.asarray(values)
    order = "F" if values.flags.f_contiguous and not values.flags.c_contiguous else "C"
    return _array_type()(values.shape, values.dtype, order=order)


def _compute(function, args, options):
    with np.errstate(all="ignore"):
        return function(*args, **options)


def _dummies(value):
    """What has the arrays' shapes and types, and no contents: for a result's shape and type."""
    return _map(lambda array: np.broadcast_to(np.zeros((), array.dtype), array.shape), value)


def _views(function, args, options):
    """The result as views of the first argument's memory, or None if it is something else."""
    if function not in VIEWS or not isinstance(args[0], _array_type()):
        return None
    results = function(*host(args), **options)
    parts = results if isinstance(results, list) else [results]
    if any(part.size and not np.may_share_memory(part, args[0]._host) for part in parts):
        return None
    parts = [wrap(part, args[0]) for part in parts]
    return parts if isinstance(results, list) else parts[0]


VIEWS = {np.reshape, np.ravel, np.transpose, np.swapaxes, np.squeeze, np.expand_dims, np.split, np.array_split,
         np.broadcast_to, np.moveaxis}


def apply(function, *args, now=False, **options):
    """The function's result as device arrays, filled when the current stream comes to it; `now`: at once."""
    check(*args, *options.values())
    found = _views(function, args, options)
    if found is not None:
        return found
    out, computed = options.get("out"), None
    later = not now and (emulator.current.streams == "late" or streams.current_stream().is_capturing())
    if out is None and later:
        sample = _compute(function, _dummies(args), _dummies(options))
    args, options = host(args), host(options)  # work in a queue does not keep memory from being used again
    if out is not None:
        submit(lambda: _compute(function, args, options))
        return out
    if not later:
        with streams.LOCK:
            submit(_nothing)
            streams.current_stream().queue.run()  # what must be done before
            sample = computed = _compute(function, args, options)
    several = isinstance(sample, tuple | list)
    results = [fresh(part) for part in (sample if several else [sample])]
    targets = host(results)

    def fill():
        found = _compute(function, args, options) if computed is None else computed
        for target, value in zip(targets, found if several else [found], strict=True):
            target[...] = value
    submit(fill)
    return type(sample)(results) if several else results[0]


def _nothing():
    pass
