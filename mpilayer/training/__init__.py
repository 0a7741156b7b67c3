"""A run of training from its options to its record."""
