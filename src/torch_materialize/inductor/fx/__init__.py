"""What is done to an FX graph before it is lowered."""
