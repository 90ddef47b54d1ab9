"""Finds every defect of a data set."""
