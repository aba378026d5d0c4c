"""Benchmarks: every figure is a ratio, taken in one run, against a contestant on the same machine."""
