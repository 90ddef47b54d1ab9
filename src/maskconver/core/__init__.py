"""The shared vocabulary: categories, segments, proposals and configuration, as arrays; without PyTorch."""
