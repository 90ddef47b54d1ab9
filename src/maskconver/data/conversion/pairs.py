"""Which mask belongs to which image, by folders and names."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import PurePosixPath
from typing import NamedTuple

from ...core.files import IMAGE_SUFFIXES
from ...io.sources import plain_stem
from .annotation import Faults
from .files import stem_of

MASK_FOLDERS = frozenset(
    {"mask", "masks", "label", "labels", "annotation", "annotations", "gt", "gts", "groundtruth"}
    | {
        "ground_truth",
        "segmentation",
        "segmentations",
        "segmentationclass",
        "semantic",
        "instance",
        "instances",
    }
)
IMAGE_FOLDERS = frozenset({"image", "images", "img", "imgs", "jpegimages", "photo", "photos", "rgb"})
SPLITS = {name: name for name in ("train", "val", "test")}
SPLITS |= {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
SPLITS |= {"stage1_train": "train", "stage1_test": "test"}
_MASK_ENDING = re.compile(r"_(?:cp_masks?|masks?|labels?|gt|L|seg|segmentation|instances?)$")
_MASK_START = re.compile(r"^(?:masks?|labels?|gt|seg|segmentation)_")
_IMAGE_NAME = re.compile(r"^(?:image|img)_(?=.)|(?<=.)_(?:image|img)$")


class Pair(NamedTuple):
    """A mask, its image (both names in the source) and the split they belong to."""

    mask: str
    image: str
    split: str


def split_of(name: str) -> str:
    """`train`, `val` or `test` if a folder of this path is called so in one of the usual ways, else ""."""
    return next((SPLITS[p.lower()] for p in PurePosixPath(name).parts[:-1] if p.lower() in SPLITS), "")


def is_mask(name: str) -> bool:
    """Whether a file lies in a folder of masks, or its name ends as those of masks do."""
    path = PurePosixPath(name)
    return any(p.lower() in MASK_FOLDERS for p in path.parts[:-1]) or bool(_MASK_ENDING.search(path.stem))


def pair_masks(names: list[str], faults: Faults, where: str) -> list[Pair]:
    """All masks with their images, by name.

    They belong together if the folders agree but for those called `images` or `masks` and the like, and the
    names but for `_mask`, `_masks`, `_label`, `gt_` and the like; where none does, but for the case of
    letters and an ending of images (`a.jpg.png`). If there are folders of images, images are looked for
    nowhere else; if `labels` lies beside `instances`, as in our own export, it holds the masks.

    Args:
        names: all files of the source.
        faults: takes masks without an image or with several, and counts images without a mask.
        where: the source, for messages.
    """
    masks: list[tuple[str, tuple[str, ...]]] = []
    images: dict[tuple[tuple[str, ...], str], list[str]] = defaultdict(
        list
    )  # by their own name and the bare one
    loose: dict[tuple[tuple[str, ...], str], list[str]] = defaultdict(list)  # in lower case
    paths = [path for n in names if (path := PurePosixPath(n)).suffix.lower() in IMAGE_SUFFIXES]
    folders = {p.lower() for path in paths for p in path.parts[:-1]}
    both = {"labels", "instances"} <= folders
    for path in paths:
        parts = [p.lower() for p in path.parts[:-1]]
        if both and "instances" in parts:
            continue
        if is_mask(str(path)):
            masks.append((str(path), tuple(p for p in parts if p not in MASK_FOLDERS)))
        elif not folders & IMAGE_FOLDERS or IMAGE_FOLDERS & {*parts}:
            kept = tuple(p for p in parts if p not in IMAGE_FOLDERS)
            for stem in {own := stem_of(str(path)), _IMAGE_NAME.sub("", own)}:
                images[kept, stem].append(str(path))
            loose[kept, own.lower()].append(str(path))
    of_image: dict[str, list[str]] = defaultdict(list)
    for mask, kept in masks:
        stem = stem_of(mask)
        bare = _MASK_START.sub("", _MASK_ENDING.sub("", stem))
        stems = (stem, bare, _IMAGE_NAME.sub("", bare))
        fitting: list[str] = next((found for s in stems if (found := images.get((kept, s)))), [])
        fitting = fitting or next((f for s in stems if (f := loose.get((kept, plain_stem(s))))), [])
        if len(fitting) == 1:
            of_image[fitting[0]].append(mask)
        elif fitting:
            what = f"{len(fitting)} images fit: {', '.join(fitting[:3])}"
            faults.add("ambiguous-image", f"{where}/{mask}", what)
        else:
            faults.add("missing-image", f"{where}/{mask}", "there is no image for it")
    pairs = []
    for image, found in sorted(of_image.items()):
        if len(found) == 1:
            pairs.append(Pair(found[0], image, split_of(image) or split_of(found[0])))
        else:
            text = f"{len(found)} masks belong to this image: {', '.join(found[:3])}"
            faults.add("ambiguous-mask", f"{where}/{image}", text)
    every = {image for found in images.values() for image in found}
    faults.note("images-without-mask", len(every - of_image.keys()))
    return pairs
