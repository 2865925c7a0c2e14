"""`instil init`: a recipe for the user's own file."""
