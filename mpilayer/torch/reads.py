"""In which order the forward of a model reads its parameters."""

import torch
from torch.utils._pytree import tree_leaves


class Reads(torch.overrides.TorchFunctionMode):
    """Calls read(module, parameter) when a parameter is an argument of a torch function for the first time in a forward
    of the model, wherever that happens; `module` is the innermost that runs. Until close().
    """

    def __init__(self, model, read):
        super().__init__()
        self.read, self.inside, self.seen = read, [], set()
        self.handles = [hook for module in model.modules() for hook in (
            module.register_forward_pre_hook(lambda module, _: self.inside.append(module)),
            module.register_forward_hook(lambda *_: self.inside.pop() and None, always_call=True))]
        self.handles.append(model.register_forward_pre_hook(lambda *_: self.__enter__() and None))
        self.handles.append(model.register_forward_hook(lambda *_: self.__exit__(None, None, None), always_call=True))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Note what it reads; then do it."""
        if self.inside:
            for value in tree_leaves((args, kwargs)):
                if isinstance(value, torch.nn.Parameter) and value not in self.seen:
                    self.seen.add(value)
                    self.read(self.inside[-1], value)
        return function(*args, **(kwargs or {}))

    def close(self):
        """Watch no more."""
        for handle in self.handles:
            handle.remove()
