"""Purging the caches in front: what is said to each kind, and the queue of each configured one."""
