"""What we lean on in upstream: one table, and its checks."""
