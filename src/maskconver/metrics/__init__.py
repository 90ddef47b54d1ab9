"""Panoptic quality, mean IoU and average precision, image by image or from files."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "overlap": ["Overlap"],
        "panoptic_quality": ["PanopticQuality", "PanopticQualityResult", "panoptic_quality"],
        "mean_iou": ["MeanIoU", "MeanIoUResult", "mean_iou"],
        "average_precision": ["PooledAPResult", "pooled_average_precision"],
        "mask_ap": ["MaskAveragePrecision"],
        "files": ["FilesResult", "panoptic_quality_files"],
    },
)
