"""The page: models side by side in a browser. It asks the same queues as the server, so it behaves like it."""
