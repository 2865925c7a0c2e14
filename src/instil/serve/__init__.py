"""Serving: engines behind one interface, a bounded queue before them, an OpenAI-compatible server, a page."""
