"""What a job found, as values and as files."""
