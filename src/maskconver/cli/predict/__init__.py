"""`maskconver predict`: images, videos, several machines."""
