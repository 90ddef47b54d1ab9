"""The data check of a label folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DataError
from ...io.label_png import LabelClasses, read_classes, read_label_png
from ...io.panoptic_rows import Defect
from ...io.sources import FileSource
from ..label_folder import pair_files, segment_table
from ..layout import LabelLayout
from .image import ImageFinding, Look, check_image
from .report import Place, SplitReport, mapped, tally


@dataclass(frozen=True, slots=True)
class LabelChecker:
    """Checks one (image id, image, label PNG) after the other; can be sent to other processes.

    Attributes:
        images, labels: where the files are.
        classes: what the values mean.
        look: as in `ImageChecker`.
    """

    images: FileSource
    labels: FileSource
    classes: LabelClasses
    look: Look

    def __call__(self, names: tuple[str, str, str]) -> ImageFinding:
        """Check the files of one image."""
        image_id, image, png = names
        found = ImageFinding(name=image)
        if not self.look.open_files:
            return found
        size = check_image(self.images, image, image_id, found=found, look=self.look)
        where = self.labels.where(png)
        try:
            ids = read_label_png(self.labels.read(png), self.classes, where)
        except DataError as error:
            found.defects.append(Defect(error.kind or "broken-png", where, error.text, "error", image_id))
            return found
        if size is not None and size != ids.shape:
            text = f"the label PNG is {ids.shape[1]}×{ids.shape[0]}, the image {size[1]}×{size[0]}"
            found.defects.append(Defect("size-mismatch", where, text, "error", image_id))
        found.pixels, found.void = ids.size, int(ids.size - np.count_nonzero(ids))
        table = segment_table(ids, self.classes.categories.ids)
        rows = zip(table.labels, table.areas.tolist())
        found.segments = [(int(self.classes.categories.ids[label]), area, False) for label, area in rows]
        if not found.segments:
            text = f"every pixel has the value to ignore ({self.classes.ignore})"
            found.defects.append(Defect("nothing-labelled", where, text, "warning", image_id))
        return found


def check_labels(
    layout: LabelLayout,
    look: Look,
    *,
    workers: int,
    progress: Callable[[str, int], Callable[[], Any]] | None,
) -> SplitReport:
    """Every defect of one split of a label folder; arguments as for `check_dataset`.

    Raises:
        DataError: the classes cannot be read, or two files have one name.
    """
    classes = read_classes(layout.classes)
    images, labels = FileSource(layout.images), FileSource(layout.labels)
    pairs, alone, extra = pair_files(images, labels)
    report = SplitReport(layout.split, str(layout.classes), len(pairs) + len(alone), len(pairs))
    for name in alone:
        text = "has no label PNG of its name; it is not used"
        report.defects.append(Defect("missing-png", images.where(name), text))
    for name in extra:
        text = "has no image of its name; it is not used"
        report.defects.append(Defect("extra-png", labels.where(name), text, "warning"))
    advance = progress(layout.split, len(pairs)) if progress else None
    report.images_path = str(images.path)
    checker = LabelChecker(images, labels, classes, look)
    with mapped(checker, pairs, workers, len(pairs)) as findings:
        tally(
            report,
            classes.categories,
            ((pair[0], found) for pair, found in zip(pairs, findings)),
            max_segments=None,
            advance=advance,
        )
    files = {pair[0]: Place(images, pair[1], labels, pair[2]) for pair in pairs}
    report.locate = files.get
    if not pairs:
        text = f"no label PNG in {labels.path} has the name of an image in {images.path}"
        report.defects.append(Defect("no-annotation", str(layout.classes), text))
    if look.open_files:
        _check_binary(report, classes)
    return report


def _check_binary(report: SplitReport, classes: LabelClasses) -> None:
    """Warns of masks of 0 and 255 where 255 is ignored: the object would never be learned."""
    unused = [row for row in report.classes if not row["segments"]]
    if len(report.classes) == 2 and len(unused) == 1 and report.void:
        value, share = unused[0]["id"] - 1, 100 * report.void / report.pixels
        text = (
            f'the class "{unused[0]["name"]}" (value {value}) occurs nowhere, while {share:.0f} % of the '
            f"pixels have the ignored value {classes.ignore}; if they are that class, write {value} for it, "
            f'or give it "label": {classes.ignore} and "ignore" another value in classes.json'
        )
        report.defects.append(Defect("class-is-ignored", report.panoptic_json, text, "warning"))
