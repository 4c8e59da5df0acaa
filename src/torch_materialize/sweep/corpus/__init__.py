"""Public models whose graphs a sweep measures."""
