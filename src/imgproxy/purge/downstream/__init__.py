"""Purging the caches in front: an adapter for each kind, a queue for each configured one."""
