"""Where the files of a split lie: the two usual layouts of a COCO panoptic data set, and label folders."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError

CLASSES_FILES = ("classes.json", "classes.txt")


@dataclass(frozen=True, slots=True)
class Layout:
    """The three places of one split: pictures and PNGs each a folder or a .zip, and the JSON.

    Attributes:
        split: its short name (`val` for `panoptic_val2017.json`); empty for a lone `panoptic.json`.
        images: folder or .zip of the pictures.
        panoptic_json: the COCO panoptic file.
        panoptic_pngs: folder or .zip of the id maps.
    """

    split: str
    images: Path
    panoptic_json: Path
    panoptic_pngs: Path


@dataclass(frozen=True, slots=True)
class LabelLayout:
    """The three places of one split of a label folder: pictures and label PNGs each a folder or a .zip.

    Attributes:
        split: its name; empty where the data set has none.
        images: folder or .zip of the pictures.
        labels: folder or .zip of the label PNGs.
        classes: `classes.json` or `classes.txt`.
    """

    split: str
    images: Path
    labels: Path
    classes: Path


def find_splits(data: str | os.PathLike[str]) -> list[str]:
    """Short names of the splits in a folder, `train` first, then `val`, then the others by name.

    Raises:
        DataError: there is no such folder.
    """
    root = _folder(data)
    names = {_short(name) for name, _ in _json_files(root)}
    if _classes_file(root):
        names |= set(_label_splits(root)) - ({""} if names else set())
    return sorted(names, key=lambda s: (s != "train", s != "val", s))


def find_layout(
    data: str | os.PathLike[str] | None,
    split: str | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    panoptic_json: str | os.PathLike[str] | None = None,
    panoptic_pngs: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
) -> Layout | LabelLayout:
    """Find the files of a split; paths that are given are taken as they are.

    Recognised are `panoptic_<split>.json` with `images/<split>` and `panoptic/<split>`, COCO's own
    `annotations/panoptic_<split>2017.json` with `<split>2017` and `annotations/panoptic_<split>2017`, and a
    folder with a single `panoptic.json`, `images` and `panoptic` (or `png`). A folder with `classes.json` (or
    `classes.txt`) and `labels/<split>` (or just `labels`) is a label folder, also where it has panoptic files
    beside them, unless `panoptic_json` says otherwise. Each folder of pictures or PNGs may be a .zip.

    Args:
        data: the folder of the data set; None when all paths are given.
        split: `train`, `val`, `val2017`, …; may be left out where there is only one.
        images: folder or .zip of the pictures, instead of the one found.
        panoptic_json: the JSON, instead of the one found.
        panoptic_pngs: folder or .zip of the PNGs, instead of the one found beside the JSON.
        labels: folder or .zip of label PNGs, instead of the one found.
        classes: the file that names the classes, instead of the one found in the data set or beside `labels`.

    Raises:
        DataError: names what was looked for and where.
    """
    root = None if data is None else _folder(data)
    if panoptic_json is None and panoptic_pngs is None:
        labelled = root is not None and _classes_file(root) and _has_labels(root, split)
        if labels is not None or classes is not None or labelled:
            return _find_labels(root, split, images, labels, classes)
    return find_panoptic(data, split, images=images, panoptic_json=panoptic_json, panoptic_pngs=panoptic_pngs)


def find_panoptic(
    data: str | os.PathLike[str] | None,
    split: str | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    panoptic_json: str | os.PathLike[str] | None = None,
    panoptic_pngs: str | os.PathLike[str] | None = None,
) -> Layout:
    """As `find_layout`, for COCO panoptic data alone."""
    root = None if data is None else _folder(data)
    if panoptic_json is not None:
        json_path = Path(panoptic_json)
        if not json_path.is_file():
            raise DataError(f"{json_path}: no such file (the COCO panoptic JSON)")
        name = _split_of(json_path)
    elif root is not None:
        name, json_path = _choose_json(root, split)
    else:
        raise DataError(
            "no data set given: name its folder, or the panoptic JSON and the folder of the pictures"
        )
    base = json_path.parent if root is None else root
    names = list(dict.fromkeys(n for n in (name, _short(name), split or "") if n))
    if images is None:
        wanted = [base / sub / n for n in names for sub in ("images", "")] or [base / "images"]
        images = _first(wanted, "pictures", "--images")
    if panoptic_pngs is None:
        wanted = [folder / sub for n in names for folder, sub in _png_places(base, json_path, n)]
        wanted += [json_path.with_suffix(""), *(() if names else (base / "panoptic", base / "png"))]
        panoptic_pngs = _first(wanted, "panoptic PNGs", "--panoptic-pngs")
    return Layout(_short(name), Path(images), json_path, Path(panoptic_pngs))


def has_json(data: str | os.PathLike[str], split: str) -> bool:
    """Whether a split of a data set's folder is there as COCO panoptic data."""
    return split in {_short(name) for name, _ in _json_files(_folder(data))}


def _png_places(base: Path, json_path: Path, name: str) -> list[tuple[Path, str]]:
    return [
        (base / "panoptic", name),
        (json_path.parent, f"panoptic_{name}"),
        (base, f"panoptic_{name}"),
        (base / "annotations", f"panoptic_{name}"),
    ]


def _classes_file(folder: Path) -> Path | None:
    return next((p for name in CLASSES_FILES if (p := folder / name).is_file()), None)


def _label_splits(root: Path) -> list[str]:
    """Names below `labels`; "" where the PNGs lie in it directly."""
    inside = [*(root / "labels").glob("*")]
    names = {p.name if p.is_dir() else p.stem for p in inside if p.is_dir() or p.suffix == ".zip"}
    return sorted(names) or ([""] if inside or (root / "labels.zip").is_file() else [])


def _has_labels(root: Path, split: str | None) -> bool:
    """Whether a split is there as label PNGs; one that is there as panoptic JSON alone is read as such."""
    found = _label_splits(root)
    return bool(found) and (not split or split in found or not _json_files(root))


def _find_labels(root: Path | None, split: str | None, images: Any, labels: Any, classes: Any) -> LabelLayout:
    if root is None and (images is None or labels is None):
        raise DataError("a label folder needs both the folder of the pictures and --labels")
    if labels is None:
        assert root is not None
        found = _label_splits(root)
        if not split and len(found) > 1:
            raise DataError(f"{root}: has the splits {', '.join(found)}; say which with --split")
        if split and split not in found and "" not in found:
            raise DataError(
                f'{root}: no split "{split}" below labels; there is {", ".join(found) or "nothing"}'
            )
        split = split or next(iter(found), "")
        labels = _first([root / "labels" / split, root / "labels"], "label PNGs", "--labels")
    split = split or ""
    if images is None:
        assert root is not None
        images = _first(
            [root / "images" / split, *([] if split else [root / "images"])], "pictures", "--images"
        )
    places = [p for p in (root, Path(labels).parent, Path(labels).parent.parent) if p is not None]
    classes = classes or next((f for p in places if (f := _classes_file(p))), None)
    if classes is None:
        looked = ", ".join(os.fspath(p / CLASSES_FILES[0]) for p in places)
        raise DataError(f"no file that names the classes: looked for {looked}; name it with --classes")
    return LabelLayout(split, Path(images), Path(labels), Path(classes))


def _folder(data: str | os.PathLike[str]) -> Path:
    folder = Path(data)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder (a data set is named by its folder)")
    return folder


def _json_files(folder: Path) -> list[tuple[str, Path]]:
    """(split name as written, path) of all panoptic JSON files; those beside the folders come first."""
    found = [*sorted(folder.glob("panoptic*.json")), *sorted((folder / "annotations").glob("panoptic*.json"))]
    return [(_split_of(path), path) for path in found if re.fullmatch(r"panoptic(_.+)?", path.stem)]


def _split_of(json_path: Path) -> str:
    return (
        json_path.stem.removeprefix("panoptic").removeprefix("_")
        if json_path.stem.startswith("panoptic")
        else ""
    )


def _short(name: str) -> str:
    return re.sub(r"(?<=\D)(19|20)\d\d$", "", name)


def _choose_json(folder: Path, split: str | None) -> tuple[str, Path]:
    found = _json_files(folder)
    if not found:
        raise DataError(
            f"{folder}: no data set here: looked for panoptic_<split>.json, "
            "annotations/panoptic_<split>2017.json and classes.json with labels/<split>; other places are "
            "named with --panoptic-json (or --labels) and --images"
        )
    shorts = list(dict.fromkeys(_short(name) for name, _ in found))
    if split is None:
        if len(shorts) > 1:
            raise DataError(f"{folder}: has the splits {', '.join(shorts)}; say which with --split")
        return found[0]
    for name, path in found:
        if name == split:
            return name, path
    for name, path in found:
        if _short(name) == split:
            return name, path
    raise DataError(
        f'{folder}: no split "{split}": looked for panoptic_{split}.json and '
        f"annotations/panoptic_{split}2017.json; "
        f"there is {', '.join(s or 'panoptic.json (no split name)' for s in shorts)}"
    )


def _first(wanted: list[Path], what: str, option: str) -> Path:
    for path in wanted:
        if path.is_dir():
            return path
        if (archive := path.with_name(path.name + ".zip")).is_file():
            return archive
    places = ", ".join(os.fspath(p) for p in dict.fromkeys(wanted))
    raise DataError(f"no folder of {what}: looked for {places} (or each as .zip); name it with {option}")
