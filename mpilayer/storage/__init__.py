"""What outlives a run: checkpoints, from which it goes on to the same bits, and the weights that it ends with."""
