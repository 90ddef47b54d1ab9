"""Annotations and results written for other tools."""
