"""Models in PyTorch, as people write them, on random samples of their own."""

import torch
from torch import nn
from torch.nn import functional


def alexnet():
    """Krizhevsky et al. 2012, in two groups, 60,965,224 parameters."""
    def pool():
        return nn.MaxPool2d(3, 2)

    def lrn():
        return nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)

    return nn.Sequential(
        nn.Conv2d(3, 96, 11, 4), nn.ReLU(), lrn(), pool(), nn.Conv2d(96, 256, 5, 1, 2, groups=2), nn.ReLU(), lrn(),
        pool(), nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 384, 3, 1, 1, groups=2), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1, groups=2), nn.ReLU(), pool(), nn.Flatten(), nn.Linear(9216, 4096), nn.ReLU(),
        nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 1000))


class Inception(nn.Module):
    """Four branches side by side, of so many channels each."""

    def __init__(self, channels, one, three_in, three, five_in, five, pooled):
        super().__init__()

        def conv(into, out, size):
            return nn.Sequential(nn.Conv2d(into, out, size, 1, size // 2), nn.ReLU())

        self.branches = nn.ModuleList((
            conv(channels, one, 1), nn.Sequential(conv(channels, three_in, 1), conv(three_in, three, 3)),
            nn.Sequential(conv(channels, five_in, 1), conv(five_in, five, 5)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(channels, pooled, 1))))

    def forward(self, x):
        """Their outputs next to each other."""
        return torch.cat([branch(x) for branch in self.branches], 1)


def googlenet():
    """Szegedy et al. 2014 without its auxiliary classifiers, 6,998,552 parameters."""
    def pool():
        return nn.MaxPool2d(3, 2, 1)

    sizes = [(192, 64, 96, 128, 16, 32, 32), (256, 128, 128, 192, 32, 96, 64), None, (480, 192, 96, 208, 16, 48, 64),
             (512, 160, 112, 224, 24, 64, 64), (512, 128, 128, 256, 24, 64, 64), (512, 112, 144, 288, 32, 64, 64),
             (528, 256, 160, 320, 32, 128, 128), None, (832, 256, 160, 320, 32, 128, 128),
             (832, 384, 192, 384, 48, 128, 128)]
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), pool(), nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0), nn.Conv2d(64, 64, 1),
        nn.ReLU(), nn.Conv2d(64, 192, 3, 1, 1), nn.ReLU(), nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0), pool(),
        *(Inception(*size) if size else pool() for size in sizes), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.4), nn.Linear(1024, 1000))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to four times the channels, and the input added."""

    def __init__(self, channels, width, stride):
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out))
        changes = stride > 1 or channels != out
        self.short = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False),
                                   nn.BatchNorm2d(out)) if changes else nn.Identity()

    def forward(self, x):
        """relu(body(x) + short(x))"""
        return functional.relu(self.body(x) + self.short(x))


def resnet50():
    """He et al. 2016, 25,557,032 parameters."""
    layers, channels = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for depth, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
        for number in range(depth):
            layers.append(Bottleneck(channels, width, stride if number == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


class Gpt(nn.Module):
    """A decoder-only Transformer of 6 blocks and 256 channels, about 4.9 million parameters."""

    WIDTH, CONTEXT, TOKENS = 256, 256, 256

    def __init__(self):
        super().__init__()
        self.token, self.position = nn.Embedding(self.TOKENS, self.WIDTH), nn.Embedding(self.CONTEXT, self.WIDTH)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(self.WIDTH, 8, 4 * self.WIDTH, 0.0, functional.gelu,
                                                               batch_first=True, norm_first=True) for _ in range(6))
        self.norm, self.output = nn.LayerNorm(self.WIDTH), nn.Linear(self.WIDTH, self.TOKENS, bias=False)

    def forward(self, x):
        """The logits of the next tokens (N,tokens,T)."""
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        x = self.token(x) + self.position(torch.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        return self.output(self.norm(x)).transpose(1, 2)


MODELS = {"alexnet": (alexnet, (3, 227, 227)), "googlenet": (googlenet, (3, 224, 224)),
          "resnet50": (resnet50, (3, 224, 224)), "gpt": (Gpt, (Gpt.CONTEXT,))}


def build(name, batch, rank):
    """(model in channels-last memory, x, y) of so many samples; the model is the same on all ranks."""
    torch.manual_seed(0)
    made, shape = MODELS[name]
    model = made().to(memory_format=torch.channels_last)
    torch.manual_seed(1 + rank)
    if len(shape) == 3:
        x = torch.randn(batch, *shape).to(memory_format=torch.channels_last)
        return model, x, torch.randint(0, 1000, (batch,))
    x, y = torch.randint(0, Gpt.TOKENS, (2, batch, *shape))
    return model, x, y
