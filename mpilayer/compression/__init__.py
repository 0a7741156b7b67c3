"""What of a gradient travels: how layers are fused and split, rounded, or compressed."""
