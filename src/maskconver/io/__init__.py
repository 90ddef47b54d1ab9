"""Files to arrays and back: images, label PNGs, COCO panoptic files, results; without PyTorch."""
