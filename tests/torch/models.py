"""Models for the tests, and a serial loop that trains them as all ranks together should."""

import torch
from torch import nn
from torch.nn import functional

SIZE = 12  # samples of a step, of all ranks
CLASSES = 5


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def cnn():
    """With batch norm, and channels last."""
    made = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False),
                         nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, CLASSES))
    return made.to(memory_format=torch.channels_last)


class Transformer(nn.Module):
    """With attention, and an embedding that is the output layer, too."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.output = nn.Linear(8, 11, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, x):
        tokens = (x.flatten(1)[:, :6] * 3).long() % 11
        return self.output(self.layer(self.embedding(tokens))).mean(1)[:, :CLASSES]


class Partly(nn.Module):
    """With a frozen layer, one that is never used, one that some samples use, and one that is used in some steps."""

    def __init__(self):
        super().__init__()
        self.first, self.frozen, self.never = nn.Linear(48, 8), nn.Linear(8, 8), nn.Linear(2, 2)
        self.some, self.last, self.sometimes = nn.Linear(8, 8), nn.Linear(8, CLASSES), nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.t = 0

    def forward(self, x):
        y = torch.relu(self.frozen(torch.relu(self.first(x.flatten(1)))))
        if x[0, 0, 0, 0] > 0:
            y = y + self.some(y)
        if self.t % 3 == 1:
            y = y + self.sometimes(y)
        return self.last(y)


MODELS = {"mlp": mlp, "cnn": cnn, "transformer": Transformer, "partly": Partly}


def build(name, seed=3):
    torch.manual_seed(seed)
    return MODELS[name]()


def batch(t, part=slice(None)):
    generator = torch.Generator().manual_seed(t)
    x, y = torch.randn(SIZE, 3, 4, 4, generator=generator), torch.randint(0, CLASSES, (SIZE,), generator=generator)
    return x[part], y[part]


def part_of(rank, ranks):
    return slice(SIZE * rank // ranks, SIZE * (rank + 1) // ranks)


def backward(model, t, part, scale=1.0):
    model.t = t
    x, y = batch(t, part)
    (scale * functional.cross_entropy(model(x), y)).backward()


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)


def adamw(model):
    return torch.optim.AdamW(model.parameters(), 3e-3)


def _set_rates(optimizer, rates):
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def serial(name, ranks, optimizer, steps, delay=0, clip=None, accumulate=1):
    """A model after so many steps in one process, each on the parts of all ranks, gradients applied `delay` steps late
    with the learning rate of their step, which falls.
    """
    model, waiting = build(name), []
    made = optimizer(model)
    scheduler = torch.optim.lr_scheduler.StepLR(made, 2, 0.5)
    rates = []
    for t in range(steps + delay):
        if t < steps:
            made.zero_grad()
            for micro in range(accumulate):
                for rank in range(ranks):
                    backward(model, t * accumulate + micro, part_of(rank, ranks), 1 / ranks)
            waiting.append([None if p.grad is None else p.grad.clone() for p in model.parameters()])
            rates.append([group["lr"] for group in made.param_groups])
        if t >= delay:
            for parameter, gradient in zip(model.parameters(), waiting.pop(0), strict=True):
                parameter.grad = gradient
            now = [group["lr"] for group in made.param_groups]
            _set_rates(made, rates.pop(0))
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            made.step()
            _set_rates(made, now)
        if t < steps:
            scheduler.step()
    return model
