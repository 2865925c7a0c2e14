"""Measurements that stand behind what the documentation claims. Each is a command: python -m benchmarks.NAME."""
