"""Reading, checking and generating data sets."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "sample": ["Sample", "SegmentTable"],
        "coco_panoptic": ["CocoPanoptic", "open_dataset"],
        "images": ["read_image"],
        "check": ["check_dataset"],
        "synth": ["synthesize"],
    },
)
