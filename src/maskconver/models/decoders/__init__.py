"""What is between backbone and heads."""
