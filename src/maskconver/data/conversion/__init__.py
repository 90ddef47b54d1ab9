"""Conversion of annotations of other tools to COCO panoptic data."""
