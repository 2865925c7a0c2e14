"""instil: turn a large text-to-text model into a small one, and measure what was gained and lost."""

__version__ = "0.1.0"
