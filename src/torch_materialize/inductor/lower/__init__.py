"""One lowering of a graph, for trial or for real."""
