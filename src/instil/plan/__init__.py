"""Hours, memory, money and break-even before anything is spent. Works from a model's config alone, without torch."""
