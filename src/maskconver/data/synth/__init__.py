"""Generated panoptic data sets."""
