"""A page and a small HTTP interface for one model, on your own machine."""
