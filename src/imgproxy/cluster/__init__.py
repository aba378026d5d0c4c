"""Many edges: the log of purges and the leases that they share."""
