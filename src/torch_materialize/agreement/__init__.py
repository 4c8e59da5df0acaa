"""Runs a model eagerly and compiled, and says where the answers part."""
