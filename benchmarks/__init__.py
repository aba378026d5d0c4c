"""Benchmarks: every figure is a ratio, taken in one run, against a contestant that runs on the same machine."""
