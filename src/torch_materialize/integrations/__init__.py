"""Entry points for programs that load plugins."""
