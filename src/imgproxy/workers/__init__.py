"""Render processes as the edge sees them: a queue of jobs, and the workers behind it."""
