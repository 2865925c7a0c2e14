"""Losses over rows: pure functions that return sums; the loop divides once by the global count."""
