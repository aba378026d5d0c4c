"""What is kept: variants in memory and on disk, originals on disk, and the journal that outlives a crash."""
