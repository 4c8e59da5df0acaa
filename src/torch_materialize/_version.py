"""The package's one version."""

__version__ = "0.1.0"
