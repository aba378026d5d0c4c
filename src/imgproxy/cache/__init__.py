"""What the service keeps: variants in memory and on disk, originals on disk, and the journal."""
