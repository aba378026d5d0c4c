"""Pixels: what happens inside a render process. Nothing else in the service imports this package, or pyvips."""
