"""Looking for the student that learns most within limits, by optuna."""
