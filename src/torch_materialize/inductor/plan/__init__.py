"""The search for a plan, measured by trial lowerings."""
