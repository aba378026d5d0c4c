"""What is kept: variants in memory and on disk, originals on disk, and the journal by which a purge outlives a crash."""
