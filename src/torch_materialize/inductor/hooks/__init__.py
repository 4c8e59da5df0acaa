"""Where a real compile meets us."""
