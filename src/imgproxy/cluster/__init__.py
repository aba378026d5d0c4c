"""Many edges: what they share."""
