"""Models: loading, families, student construction, generation. The only room that knows one architecture from another."""
