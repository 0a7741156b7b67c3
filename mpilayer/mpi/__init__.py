"""MPI itself: the ranks, the collectives, and the compiled loop that starts and tests them."""
