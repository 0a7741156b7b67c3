"""A Transformer for text in PyTorch on several ranks: two lines are mpilayer's, and a line gives each rank its samples.

    mpiexec -n 2 python examples/torch_transformer.py                     # Python's own documentation
    mpiexec -n 2 python examples/torch_transformer.py --data text:FILE
"""

import argparse
import math

import torch
from torch import nn
from torch.nn import functional

import mpilayer
import mpilayer.torch
from mpilayer.data import batches, share


class Gpt(nn.Module):
    """A decoder-only Transformer; the embedding is the output layer, too."""

    def __init__(self, tokens, context, width=64, heads=4, blocks=2):
        super().__init__()
        self.token, self.position = nn.Embedding(tokens, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, functional.gelu,
                                                               batch_first=True, norm_first=True)
                                    for _ in range(blocks))
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
        nn.init.normal_(self.token.weight, std=0.02)
        self.output.weight = self.token.weight

    def forward(self, x):
        """The logits of the next tokens (N,tokens,T)."""
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        x = self.token(x) + self.position(torch.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        return self.output(self.norm(x)).transpose(1, 2)


def main(data="text", steps=200, batch=16, schedule="planned"):
    """Train; the perplexity of the test part."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ranks, source = mpilayer.Ranks(), mpilayer.open_data(data, context=64)
    model = Gpt(source.classes, *source.shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model, optimizer = mpilayer.torch.distribute(model, optimizer, schedule, overlap="forward")

    def cross_entropy(part, indices):
        x, y = part.read(indices)
        return functional.cross_entropy(model(torch.from_numpy(x).long()), torch.from_numpy(y).long())

    step = 0
    while step < steps:
        for indices in batches(len(source.train), batch, seed=0, epoch=step):
            optimizer.zero_grad()
            loss = cross_entropy(source.train, indices[share(batch, ranks.rank, ranks.size)])  # this rank's samples
            loss.backward()
            optimizer.step()
            step += 1
            if ranks.rank == 0 and step % 50 == 0:
                print(f"step {step}  loss {loss.item():.3f}", flush=True)
            if step == steps:
                break
    with torch.no_grad():
        model.eval()
        perplexity = math.exp(cross_entropy(source.test, range(min(64, len(source.test)))).item())
    if ranks.rank == 0:
        print(f"test perplexity {perplexity:.2f}", flush=True)
    model.undistribute()
    return perplexity


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="text")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--schedule", default="planned", choices=mpilayer.torch.SCHEDULES)
    main(**vars(parser.parse_args()))
