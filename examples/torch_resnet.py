"""A residual net in PyTorch on several ranks: two lines are mpilayer's, and a line gives each rank its own samples.

    mpiexec -n 2 python examples/torch_resnet.py                     # the digits that come with mpilayer
    mpiexec -n 2 python examples/torch_resnet.py --data idx:FOLDER   # Fashion-MNIST, for example
"""

import argparse

import torch
from torch import nn
from torch.nn import functional

import mpilayer
import mpilayer.torch
from mpilayer.data import batches, share


class Block(nn.Module):
    """Two convolutions, and the input added."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
                                  nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        same = stride == 1 and channels == out
        self.short = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x):
        """relu(body(x) + short(x))"""
        return functional.relu(self.body(x) + self.short(x))


def resnet(channels, classes):
    """Three stages, of 16 to 64 channels."""
    return nn.Sequential(nn.Conv2d(channels, 16, 3, 1, 1), nn.ReLU(), Block(16, 16, 1), Block(16, 32, 2),
                         Block(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def main(data="digits", epochs=3, batch=64, schedule="planned"):
    """Train; the accuracy on the test part."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ranks, source = mpilayer.Ranks(), mpilayer.open_data(data)
    model = resnet(source.shape[-1], source.classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model, optimizer = mpilayer.torch.distribute(model, optimizer, schedule, overlap="forward")

    def read(part, indices):
        x, y = part.read(indices)
        return torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(y)

    for epoch in range(epochs):
        for indices in batches(len(source.train), batch, seed=0, epoch=epoch):
            x, y = read(source.train, indices[share(batch, ranks.rank, ranks.size)])  # this rank's samples
            optimizer.zero_grad()
            functional.cross_entropy(model.train()(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            x, y = read(source.test, range(len(source.test)))
            accuracy = (model.eval()(x).argmax(1) == y).float().mean().item()
        if ranks.rank == 0:
            print(f"epoch {epoch + 1}  test accuracy {accuracy:.2%}", flush=True)
    model.undistribute()
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--schedule", default="planned", choices=mpilayer.torch.SCHEDULES)
    main(**vars(parser.parse_args()))
