"""What outputs are judged by, a file for each kind; `choose` finds metrics by name."""
