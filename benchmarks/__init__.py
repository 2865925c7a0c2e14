"""Measurements that stand behind what the documentation claims. Each is a command: python -m benchmarks.NAME."""

from instil.serve.awake import stay_awake

stay_awake()  # As `instil serve` does, before any of them loads an engine.
