"""What only a net on a GPU needs."""
