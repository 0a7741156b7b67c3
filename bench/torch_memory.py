"""PyTorch's side of `python -m bench memory`: {pass: {memory format: function}} of each operation.

Tensors lie on PyTorch's default device; activations are of a dtype, float32 if none is given.
"""


def _tensors(shape, dtype=None):
    """{memory format: (x, dy)}, normal numbers; NCHW and NHWC where there are pixels."""
    import torch

    if len(shape) != 4:
        return {"flat": (torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype))}
    N, H, W, C = shape
    return {name: tuple(torch.randn(N, C, H, W, dtype=dtype).to(memory_format=layout) for _ in range(2))
            for name, layout in (("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last))}


def _passes(forward, backward, x_and_dy):
    """Both passes in each format, from functions that make them of x and dy."""
    return {"forward": {name: forward(*tensors) for name, tensors in x_and_dy.items()},
            "backward": {name: backward(*tensors) for name, tensors in x_and_dy.items()}}


def relu(case, dtype=None):
    """Rectifier and its gradient."""
    import torch

    aten = torch.ops.aten
    return _passes(lambda x, _: lambda: aten.relu(x), lambda x, dy: lambda: aten.threshold_backward(dy, x, 0),
                   _tensors(case.shape, dtype))


def dropout(case, rate, dtype=None):
    """Random numbers of its own."""
    import torch

    aten = torch.ops.aten

    def backward(x, dy):
        _, mask = aten.native_dropout(x, rate, True)
        return lambda: aten.native_dropout_backward(dy, mask, 1 / (1 - rate))

    return _passes(lambda x, _: lambda: aten.native_dropout(x, rate, True), backward, _tensors(case.shape, dtype))


def lrn(case, dtype=None):
    """It has no backward of its own: autograd runs those of the parts."""
    import torch

    def normalize(x):
        return torch.nn.functional.local_response_norm(x, *case[2:])

    def backward(x, dy):
        with torch.enable_grad():
            x = x.requires_grad_()
            y = normalize(x)
        return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)

    return _passes(lambda x, _: lambda: normalize(x), backward, _tensors(case.shape, dtype))


def _window(case):
    """The arguments window, stride, padding as pairs."""
    return [[value] * 2 for value in (case.window, case.stride, case.padding)]


def maxpool2d(case, dtype=None):
    """With the index that training needs."""
    import torch

    aten = torch.ops.aten

    def pool(x):
        return aten.max_pool2d_with_indices(x, *_window(case), [1, 1], case.ceil_mode)

    def backward(x, _):
        y, index = pool(x)
        return lambda: aten.max_pool2d_with_indices_backward(y, x, *_window(case), [1, 1], case.ceil_mode, index)

    return _passes(lambda x, _: lambda: pool(x), backward, _tensors(case.shape, dtype))


def avgpool2d(case, dtype=None):
    """Windows of any size."""
    import torch

    aten = torch.ops.aten
    options = *_window(case), case.ceil_mode, True, None

    def backward(x, _):
        y = aten.avg_pool2d(x, *options)
        return lambda: aten.avg_pool2d_backward(y, x, *options)

    return _passes(lambda x, _: lambda: aten.avg_pool2d(x, *options), backward, _tensors(case.shape, dtype))


def _graph(function, x):
    """(x, y) of a function that autograd has seen."""
    import torch

    with torch.enable_grad():
        x = x.requires_grad_()
        return x, function(x)


def batchnorm(case, dtype=None):
    """With running statistics, rectifier and residual, as a ResNet has them; backward by autograd."""
    import torch

    C = case.shape[-1]
    gamma, beta, running = torch.ones(C), torch.zeros(C), torch.zeros(2, C)

    def normalized(x, more):
        y = torch.nn.functional.batch_norm(x, *running, gamma, beta, training=True)
        return torch.relu_(y.add_(more) if case.add else y)

    def backward(x, dy):
        for parameter in (gamma, beta):
            parameter.requires_grad_()
        more = dy.clone()
        x, y = _graph(lambda x: normalized(x, more), x)
        return lambda: torch.autograd.grad(y, (x, gamma, beta), dy, retain_graph=True)

    return _passes(lambda x, dy: lambda: normalized(x, dy), backward, _tensors(case.shape, dtype))


def layernorm(case, dtype=None):
    """Its own backward."""
    import torch

    gamma, beta = torch.ones(case.C, dtype=dtype), torch.zeros(case.C, dtype=dtype)

    def normalized(x):
        return torch.nn.functional.layer_norm(x, (case.C,), gamma, beta)

    def backward(x, dy):
        for parameter in (gamma, beta):
            parameter.requires_grad_()
        x, y = _graph(normalized, x)
        return lambda: torch.autograd.grad(y, (x, gamma, beta), dy, retain_graph=True)

    return _passes(lambda x, _: lambda: normalized(x), backward, _tensors((case.M, case.C), dtype))


def gelu(case, dtype=None):
    """The same form."""
    import torch

    aten = torch.ops.aten
    return _passes(lambda x, _: lambda: aten.gelu(x, approximate="tanh"),
                   lambda x, dy: lambda: aten.gelu_backward(dy, x, approximate="tanh"), _tensors(case.shape, dtype))


def embedding(case, dtype=None):
    """Two tables, added."""
    import torch

    tokens = torch.tensor(case.tokens())
    table, positions = (torch.randn(n, case.C, dtype=dtype) for n in (case.V, case.P))

    def looked_up():
        return torch.nn.functional.embedding(tokens, table) + positions[:case.T]

    def back():
        table.requires_grad_()
        positions.requires_grad_()
        with torch.enable_grad():
            y = looked_up()
        return lambda: torch.autograd.grad(y, (table, positions), y.detach(), retain_graph=True)

    return {"forward": {"flat": looked_up}, "backward": {"flat": back()}}


def cross_entropy(case, dtype=None):
    """Loss and gradient, by autograd."""
    import torch

    logits, labels = torch.randn(case.N, case.C, dtype=dtype).requires_grad_(), torch.arange(case.N) % case.C

    def both():
        with torch.enable_grad():
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        return torch.autograd.grad(loss, logits)

    return {"both": {"flat": both}}


def _update(case, optimizer, **options):
    """Its fused optimiser."""
    import torch

    w = torch.zeros(case.size, requires_grad=True)
    w.grad = torch.randn(case.size)
    return {"update": {"flat": getattr(torch.optim, optimizer)([w], fused=True, **options).step}}


def sgd(case, **options):
    """Momentum SGD."""
    return _update(case, "SGD", **options)


def adamw(case, *_):
    """Decoupled weight decay."""
    return _update(case, "AdamW", lr=1e-6)
