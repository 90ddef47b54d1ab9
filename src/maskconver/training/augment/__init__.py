"""Random variation of training examples."""
