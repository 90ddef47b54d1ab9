"""What is worth a look without being a defect, and what only several splits together show."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection

from ...errors import ConfigError
from ...io.panoptic_rows import Defect
from .alike import alike
from .image import note
from .report import SplitReport

FEW = 10  # objects of a class
SHOWN = 8  # names in one line


def about_split(report: SplitReport) -> None:
    """Adds notes about rare classes and about mixed kinds of images."""
    used = [row for row in report.classes if row["segments"]]
    rare = [f"{row['name']} ({row['segments']})" for row in used if row["segments"] < FEW]
    if rare and report.annotated > FEW:
        text = f"{_count(rare, 'class', 'classes')} with fewer than {FEW} segments: {_names(rare)}"
        report.notes.append(note("rare-class", report.panoptic_json, text))
    if len(report.forms) > 1:
        forms = ", ".join(f"{n} × {form}" for form, n in report.forms.most_common(SHOWN))
        text = f"images of several kinds: {forms}"
        report.notes.append(note("mixed-images", report.panoptic_json, text))


def about_splits(reports: list[SplitReport], group: str | None) -> None:
    """Adds what only several splits together show.

    Near-duplicates and groups in two splits are defects, as they spoil an evaluation; classes that only one
    split has are notes.

    Args:
        reports: of all splits.
        group: regular expression for file names; the text of its first group (or of the whole match) names
            the group of an image.

    Raises:
        ConfigError: it is no regular expression.
    """
    if group is not None:
        _groups(reports, group)
    for k, report in enumerate(reports):
        for earlier in reports[:k]:
            if earlier.split == report.split:  # the same images as panoptic data and as a label folder
                continue
            for i, j, distance in alike([p for *_, p in earlier.looks], [p for *_, p in report.looks]):
                (twin, name, _), (image_id, own, _) = earlier.looks[i], report.looks[j]
                text = f"{own} looks like {name} of {earlier.split} ({distance} of 256 bits differ)"
                defect = Defect("near-duplicate", report.images_path, text, "warning", image_id)
                report.defects.append(defect)
                report.twins[image_id] = earlier, twin
            _classes(earlier, report)


def _classes(first: SplitReport, second: SplitReport) -> None:
    for one, other in ((first, second), (second, first)):
        absent = {row["name"] for row in other.classes if not row["segments"]}
        alone = [row["name"] for row in one.classes if row["segments"] and row["name"] in absent]
        if alone:
            where = f"in {one.split or one.panoptic_json}, but not in {other.split or other.panoptic_json}"
            text = f"{_count(alone, 'class', 'classes')} {where}: {_names(alone)}"
            one.notes.append(note("class-in-one-split", one.panoptic_json, text))


def _groups(reports: list[SplitReport], group: str) -> None:
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ConfigError(f'`group` "{group}" is not a regular expression ({error})') from None
    members: defaultdict[str, dict[int, list[str]]] = defaultdict(dict)
    matched = 0
    for k, report in enumerate(reports):
        for _, name, _ in report.looks:
            if match := pattern.search(name):
                matched += 1
                key = match[1] if pattern.groups and match[1] is not None else match[0]
                members[key].setdefault(k, []).append(name)
    if not matched:
        raise ConfigError(f'`group` "{group}" matches no file name')
    for key, where in members.items():
        if len({reports[k].split for k in where}) > 1:
            parts = "; ".join(f"{reports[k].split}: {_names(names, 2)}" for k, names in where.items())
            last = reports[max(where)]
            text = f'the group "{key}" is in {len(where)} splits: {parts}'
            last.defects.append(Defect("group-in-splits", last.images_path, text, "warning"))


def _count(names: Collection[str], one: str, many: str) -> str:
    return f"{len(names)} {one if len(names) == 1 else many}"


def _names(names: list[str], shown: int = SHOWN) -> str:
    return ", ".join(names[:shown]) + (f", … ({len(names)})" if len(names) > shown else "")
