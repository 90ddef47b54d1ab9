"""The kMaX-DeepLab family."""
