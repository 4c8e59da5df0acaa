"""Public models whose graphs a sweep measures: what they are, how they are built and measured.

Importing this package and listing the models imports none of the packages they come from.
"""
