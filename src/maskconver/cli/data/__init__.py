"""The commands about data sets."""
