"""From what Inductor lowered to the planner's view (:mod:`torch_materialize.core`)."""
