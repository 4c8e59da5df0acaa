"""Pure decisions and figures: no torch is imported anywhere below this package."""
