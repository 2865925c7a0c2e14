"""Building a student out of a teacher: pure functions, teacher + plan -> a plain transformers model + a report."""
