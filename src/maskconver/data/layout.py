"""Where the files of a split lie: the two usual layouts of a COCO panoptic data set, and label folders."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path

from ..errors import DataError

CLASSES_FILES = ("classes.json", "classes.txt")


@dataclass(frozen=True)
class DataPaths:
    """Files of one split that are not where the data set's folder has them; see `find_layout`.

    Attributes:
        images: folder or .zip of the images.
        panoptic_json: the COCO panoptic file.
        panoptic_pngs: folder or .zip of its PNGs.
        labels: folder or .zip of label PNGs.
        classes: the file that names their classes.
    """

    images: str | None = None
    panoptic_json: str | None = None
    panoptic_pngs: str | None = None
    labels: str | None = None
    classes: str | None = None

    @classmethod
    def of(cls, paths: DataPaths | None = None, **files: str | os.PathLike[str] | None) -> DataPaths:
        """`paths`, with those that are named by keyword in place of its own."""
        given = {name: os.fspath(path) for name, path in files.items() if path is not None}
        if unknown := set(files) - {f.name for f in fields(cls)}:
            raise TypeError(f"no path is called {', '.join(sorted(unknown))}")
        return replace(paths or cls(), **given)


@dataclass(frozen=True, slots=True)
class Layout:
    """The three places of one split: images and PNGs each a folder or a .zip, and the JSON.

    Attributes:
        split: its short name (`val` for `panoptic_val2017.json`); empty for a lone `panoptic.json`.
        images: folder or .zip of the images.
        panoptic_json: the COCO panoptic file.
        panoptic_pngs: folder or .zip of the id maps.
    """

    split: str
    images: Path
    panoptic_json: Path
    panoptic_pngs: Path


@dataclass(frozen=True, slots=True)
class LabelLayout:
    """The three places of one split of a label folder: images and label PNGs each a folder or a .zip.

    Attributes:
        split: its name; empty where the data set has none.
        images: folder or .zip of the images.
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
    data: str | os.PathLike[str] | None, split: str | None = None, paths: DataPaths | None = None
) -> Layout | LabelLayout:
    """Find the files of a split; paths that are given are taken as they are.

    Recognised are `panoptic_<split>.json` with `images/<split>` and `panoptic/<split>`, COCO's own
    `annotations/panoptic_<split>2017.json` with `<split>2017` and `annotations/panoptic_<split>2017`, and a
    folder with a single `panoptic.json`, `images` and `panoptic` (or `png`). A folder with `classes.json` (or
    `classes.txt`) and `labels/<split>` (or just `labels`) is a label folder, also where it has panoptic files
    beside them, unless `panoptic_json` says otherwise. Each folder of images or PNGs may be a .zip.

    Args:
        data: the folder of the data set; None when all paths are given.
        split: `train`, `val`, `val2017`, …; may be left out where there is only one.
        paths: files that are taken instead of the ones found; `panoptic_pngs` is otherwise looked for beside
            the JSON, `classes` in the data set and beside `labels`.

    Raises:
        DataError: names what was looked for and where.
    """
    root = None if data is None else _folder(data)
    paths = paths or DataPaths()
    if paths.panoptic_json is None and paths.panoptic_pngs is None:
        labelled = root is not None and _classes_file(root) and _has_labels(root, split)
        if paths.labels is not None or paths.classes is not None or labelled:
            return _find_labels(root, split, paths)
    return find_panoptic(data, split, paths)


def find_panoptic(
    data: str | os.PathLike[str] | None, split: str | None = None, paths: DataPaths | None = None
) -> Layout:
    """As `find_layout`, for COCO panoptic data alone."""
    root = None if data is None else _folder(data)
    paths = paths or DataPaths()
    if paths.panoptic_json is not None:
        json_path = Path(paths.panoptic_json)
        if not json_path.is_file():
            raise DataError("no such file (the COCO panoptic JSON)", where=str(json_path))
        name = _split_of(json_path)
    elif root is not None:
        name, json_path = _choose_json(root, split)
    else:
        raise DataError(
            "no data set given", fix="give its folder, or `panoptic_json` and the folder of the `images`"
        )
    base = json_path.parent if root is None else root
    names = list(dict.fromkeys(n for n in (name, _short(name), split or "") if n))
    if paths.images is None:
        wanted = [base / sub / n for n in names for sub in ("images", "")] or [base / "images"]
        images = _first(wanted, "images", "images")
    else:
        images = Path(paths.images)
    pngs = paths.panoptic_pngs or require_pngs(json_path, "panoptic_pngs", base, names=names)
    return Layout(_short(name), images, json_path, Path(pngs))


def require_pngs(
    json_path: Path, setting: str, base: Path | None = None, *, names: list[str] | None = None
) -> Path:
    """The folder or .zip of PNGs of a panoptic JSON: beside it with its name, or where data sets have it.

    Args:
        json_path: the JSON.
        setting: that takes another place, for the message.
        base: the folder of the data set; that of the JSON if left out.
        names: of the split; those in the JSON's name if left out.

    Raises:
        DataError: names what was looked for.
    """
    base = base or json_path.parent
    if names is None:
        name = _split_of(json_path)
        names = [n for n in dict.fromkeys((name, _short(name))) if n]
    wanted = [folder / sub for n in names for folder, sub in _png_places(base, json_path, n)]
    wanted += [json_path.with_suffix(""), *(() if names else (base / "panoptic", base / "png"))]
    return _first(wanted, "panoptic PNGs", setting)


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
    """Names below `labels`; "" where the PNGs lie in it directly. None of YOLO's, which are texts."""
    inside = [*(root / "labels").glob("*")]
    kinds = {p.suffix.lower() for p in islice((root / "labels").rglob("*"), 1000)}
    linked = any(p.is_symlink() for p in inside)  # whose files are not among them
    if ".txt" in kinds and kinds.isdisjoint((".png", ".tif", ".tiff", ".zip")) and not linked:
        return []
    names = {p.name if p.is_dir() else p.stem for p in inside if p.is_dir() or p.suffix == ".zip"}
    return sorted(names) or ([""] if inside or (root / "labels.zip").is_file() else [])


def _has_labels(root: Path, split: str | None) -> bool:
    """Whether a split is there as label PNGs; one that is there as panoptic JSON alone is read as such."""
    found = _label_splits(root)
    return bool(found) and (not split or split in found or not _json_files(root))


def _find_labels(root: Path | None, split: str | None, paths: DataPaths) -> LabelLayout:
    images, labels, classes = (Path(p) if p else None for p in (paths.images, paths.labels, paths.classes))
    if root is None and (images is None or labels is None):
        raise DataError("a label folder needs both the folder of the `images` and that of the `labels`")
    if labels is None:
        assert root is not None
        found = _label_splits(root)
        if not split and len(found) > 1:
            raise DataError(
                f"has the splits {', '.join(found)}", where=str(root), fix="say which with `split`"
            )
        if split and split not in found and "" not in found:
            there = ", ".join(found) or "nothing"
            raise DataError(f'no split "{split}" below labels; there is {there}', where=str(root))
        split = split or next(iter(found), "")
        labels = _first([root / "labels" / split, root / "labels"], "label PNGs", "labels")
    split = split or ""
    if images is None:
        assert root is not None
        images = _first([root / "images" / split, *([] if split else [root / "images"])], "images", "images")
    places = [p for p in (root, labels.parent, labels.parent.parent) if p is not None]
    classes = classes or next((f for p in places if (f := _classes_file(p))), None)
    if classes is None:
        looked = ", ".join(os.fspath(p / CLASSES_FILES[0]) for p in places)
        raise DataError(f"no file that names the classes (looked for {looked})", fix="name it with `classes`")
    return LabelLayout(split, images, labels, classes)


def _folder(data: str | os.PathLike[str]) -> Path:
    folder = Path(data)
    if not folder.is_dir():
        raise DataError("no such folder; give the folder of the data set", where=str(folder))
    return folder


def _json_files(folder: Path) -> list[tuple[str, Path]]:
    """(split name as written, path) of all panoptic JSON files; those beside the folders come first."""
    found = [*sorted(folder.glob("panoptic*.json")), *sorted((folder / "annotations").glob("panoptic*.json"))]
    return [(_split_of(path), path) for path in found if re.fullmatch(r"panoptic(_.+)?", path.stem)]


def _split_of(json_path: Path) -> str:
    stem = json_path.stem
    return stem.removeprefix("panoptic").removeprefix("_") if stem.startswith("panoptic") else ""


def _short(name: str) -> str:
    return re.sub(r"(?<=\D)(19|20)\d\d$", "", name)


def _choose_json(folder: Path, split: str | None) -> tuple[str, Path]:
    found = _json_files(folder)
    if not found:
        raise DataError(
            "no data set here: looked for panoptic_<split>.json, "
            "annotations/panoptic_<split>2017.json and classes.json with labels/<split>",
            where=str(folder),
            fix="name other places with `panoptic_json` (or `labels`) and `images`; annotations of another "
            "tool are converted first (maskconver data convert)",
        )
    shorts = list(dict.fromkeys(_short(name) for name, _ in found))
    if split is None:
        if len(shorts) > 1:
            raise DataError(
                f"has the splits {', '.join(shorts)}", where=str(folder), fix="say which with `split`"
            )
        return found[0]
    for name, path in found:
        if name == split:
            return name, path
    for name, path in found:
        if _short(name) == split:
            return name, path
    raise DataError(
        f'no split "{split}": looked for panoptic_{split}.json and '
        f"annotations/panoptic_{_short(split)}2017.json; "
        f"there is {', '.join(s or 'panoptic.json (no split name)' for s in shorts)}",
        where=str(folder),
    )


def _first(wanted: list[Path], what: str, setting: str) -> Path:
    """The first of some folders that is there, perhaps as .zip."""
    for path in wanted:
        if path.is_dir():
            return path
        if (archive := path.with_name(path.name + ".zip")).is_file():
            return archive
    places = ", ".join(os.fspath(p) for p in dict.fromkeys(wanted))
    text = f"no folder of {what}: looked for {places} (or each as .zip)"
    raise DataError(text, fix=f"name it with `{setting}`")
