"""Engines: what runs a model. Each takes jobs and tells them what it writes; nothing else knows one from another."""
