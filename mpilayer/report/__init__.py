"""What runs have left in their folders, drawn."""
