"""What the commands and ``tm.explain`` do."""
