"""A smaller vocabulary: what the user's data needs, cut out of the teacher's tokenizer and its embedding."""
