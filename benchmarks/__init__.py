"""Benchmarks: interleaved ratios against the baselines in `baselines/`, one thread."""
