"""Compressing a student: fewer bits or fewer weights, with recovery by distillation from the same labels."""
