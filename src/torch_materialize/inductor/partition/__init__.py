"""What the forward of a training step saves for its backward."""
