"""Training: one loop for teaching and for distilling, as a generator over explicit state."""
