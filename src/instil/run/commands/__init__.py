"""Commands of the command line, a file each; nothing heavy is imported before one needs it."""
