"""Graphs captured and lowered without compiling or running anything."""
