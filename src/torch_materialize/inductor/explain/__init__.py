"""What a plan did, for people to read."""
