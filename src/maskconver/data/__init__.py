"""Reading, checking and generating data sets."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "open": ["open_dataset"],
        "dataset": ["PanopticDataset", "Sample"],
        "coco": ["CocoPanoptic"],
        "label_folder": ["LabelFolder"],
        "check.run": ["check_dataset"],
        "conversion.run": ["convert"],
        "export_to.write": ["export"],
        "stats": ["dataset_stats"],
        "suggest": ["suggest_recipe"],
        "synth.write": ["synthesize"],
    },
)
