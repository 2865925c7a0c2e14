"""Measuring: ROUGE with signatures and intervals, paired tests, latency, memory, trivial baselines, comparisons."""
