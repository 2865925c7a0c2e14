"""`instil check`: every room's preflight put together, before anything is spent."""
