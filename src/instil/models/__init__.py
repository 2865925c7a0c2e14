"""Models: loading, families, student construction, generation. Only this room knows one architecture from another."""
