"""Random programs and random planner graphs, and what must hold for each of them."""
