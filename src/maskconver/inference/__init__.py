"""From an image to its segmentation: the predictor and what runs a network or an exported file."""
