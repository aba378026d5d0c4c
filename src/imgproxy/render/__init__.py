"""Pixels: the pool of render processes, and what happens inside one. Only a render process imports pyvips."""
