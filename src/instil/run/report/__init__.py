"""What was found, on paper: the page, its charts and words, the tables."""
