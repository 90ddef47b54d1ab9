"""Writes a COCO panoptic data set image by image; only names and groups stay in memory."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...core.categories import Categories
from ...core.files import atomic_path, linked
from ...core.panoptic_png import write_panoptic_png
from ...core.segments import measure
from ...errors import ImageError, one_line
from ...io.decoding import is_deep
from .annotation import Images
from .files import plain_name

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")


class SetWriter:
    """Images and their annotation go to `add`; `finish` writes the JSON of each split.

    Args:
        folder: an empty one.
        categories: the label set.
        images: how an image file comes into the set.
        max_side: larger images and id maps are made smaller; None for no limit.

    Attributes:
        how: how many images were linked, copied, resized or only named.
        groups: of each image, in order; None in place of a group is the image itself.
        splits: of each image, in order.
        renamed: how many images have another name than in the source.
        pixels: of the image that was added last.
    """

    def __init__(self, folder: Path, categories: Categories, images: Images, max_side: int | None) -> None:
        self.folder, self.categories, self.images, self.max_side = folder, categories, images, max_side
        self.how: Counter[str] = Counter()
        self.groups: list[str | None] = []
        self.splits: list[str] = []
        self.renamed = 0
        self.pixels = 0
        self._stems: set[str] = set()
        self._rows = (folder / "rows.jsonl").open("w", encoding="utf-8")

    def close(self) -> None:
        """Closes what is open, also where the set is not finished."""
        self._rows.close()

    def add(
        self,
        name: str,
        path: Path | bytes | None,
        ids: NDArray[np.int32],
        segments: list[tuple[int, int, bool]],
        *,
        split: str,
        group: str | None,
        info: dict[str, Any],
    ) -> list[tuple[int, int]]:
        """Write one image.

        Args:
            name: in the source.
            path: its file, or the content of one, if there is one.
            ids: (H, W), 0 = void.
            segments: (id, category id, crowd) of every id of the map.
            split, group: as for `splits` and `groups`.
            info: more keys of its row.

        Returns:
            (category id, pixels) of each segment that has pixels.

        Raises:
            DataError, ImageError, OSError: the image's file cannot be used.
        """
        height, width = ids.shape
        if small := self._smaller(width, height):
            ids = np.asarray(Image.fromarray(ids).resize(small, Image.Resampling.NEAREST))
        areas, boxes = measure(ids, np.array([s[0] for s in segments], np.int64))
        stem, suffix = self._unique(name)
        file_name = f"{stem}{suffix}"
        if self.images != "none" and path is not None:
            file_name = self._put_image(path, split, stem, suffix, small)
        else:
            file_name = plain_name(name)  # below the folder that is named with `images` later
            self.how["only named"] += 1
        write_panoptic_png(self.folder / "panoptic" / split / f"{stem}.png", ids)
        rows = [
            {"id": s[0], "category_id": s[1], "area": int(a), "bbox": b.tolist(), "iscrowd": int(s[2])}
            for s, a, b in zip(segments, areas, boxes)
            if a
        ]
        number = len(self.splits) + 1
        if file_name not in (PurePosixPath(name).name, name):
            info = {**info, "source_name": name}
            self.renamed += 1
        image = {"id": number, "file_name": file_name, "width": ids.shape[1], "height": ids.shape[0], **info}
        annotation = {"image_id": number, "file_name": f"{stem}.png", "segments_info": rows}
        self._rows.write(json.dumps([image, annotation], ensure_ascii=False) + "\n")
        self.splits.append(split)
        self.groups.append(group)
        self.pixels = ids.size
        return [(int(s[1]), int(a)) for s, a in zip(segments, areas) if a]

    def finish(self, splits: list[str], description: str) -> None:
        """Move the files of images to their splits and write a JSON for each.

        Args:
            splits: of each image, in the order they were added.
            description: for the `info` of the JSON.
        """
        self._rows.close()
        rows_file = self.folder / "rows.jsonl"
        for split in dict.fromkeys(splits):
            for kind in ("images", "panoptic"):
                if kind == "panoptic" or self.images != "none":
                    (self.folder / kind / split).mkdir(parents=True, exist_ok=True)
            path = self.folder / f"panoptic_{split}.json"
            spool = self.folder / "images.jsonl"
            head = {"info": {"description": description}, "licenses": []}
            with (
                rows_file.open(encoding="utf-8") as rows,
                atomic_path(path) as temporary,
                temporary.open("w", encoding="utf-8") as file,
                spool.open("w+", encoding="utf-8") as images,
            ):
                file.write(json.dumps(head)[:-1] + ', "annotations": [\n')
                comma = ""
                for line, old, new in zip(rows, self.splits, splits):
                    if new != split:
                        continue
                    image, annotation = json.loads(line)
                    if old != new:
                        self._move(image["file_name"], annotation["file_name"], old, new)
                    file.write(comma + json.dumps(annotation, ensure_ascii=False, separators=(",", ":")))
                    images.write(comma + json.dumps(image, ensure_ascii=False, separators=(",", ":")))
                    comma = ",\n"
                images.seek(0)
                file.write('\n], "images": [\n')
                shutil.copyfileobj(images, file)
                tail = json.dumps({"categories": self.categories.to_json()}, ensure_ascii=False)
                file.write("\n], " + tail[1:] + "\n")
            spool.unlink()
        rows_file.unlink()
        for kind in ("images", "panoptic"):
            for old in set(self.splits) - set(splits):
                if (folder := self.folder / kind / old).is_dir():
                    folder.rmdir()

    def _move(self, image: str, png: str, old: str, new: str) -> None:
        for kind, name in (("images", image), ("panoptic", png)):
            source = self.folder / kind / old / name
            if source.exists():
                source.replace(self.folder / kind / new / name)

    def _unique(self, name: str) -> tuple[str, str]:
        """Stem and ending of the output: those of the name, with its folders before where they are taken.

        Stems are unique in the whole set, whatever the split and the case of letters.
        """
        parts = [p for p in re.split(r"[/\\]", name) if p not in ("", ".", "..")] or ["image"]
        suffix = PurePosixPath(parts[-1]).suffix
        parts[-1] = parts[-1].removesuffix(suffix)
        parts = [re.sub(r'[\x00-\x1f:*?"<>|]', "_", p) for p in parts]
        tries = ["_".join(parts[k:]) for k in range(len(parts) - 1, -1, -1)]
        stem = next((t for t in tries if t.lower() not in self._stems), "")
        number = 2
        while not stem:
            numbered = f"{tries[-1]}_{number}"
            stem = "" if numbered.lower() in self._stems else numbered
            number += 1
        self._stems.add(stem.lower())
        return stem, suffix

    def _smaller(self, width: int, height: int) -> tuple[int, int] | None:
        side = max(width, height)
        if self.max_side is None or side <= self.max_side:
            return None
        return tuple(max(1, round(v * self.max_side / side)) for v in (width, height))  # type: ignore[return-value]

    def _put_image(
        self, path: Path | bytes, split: str, stem: str, suffix: str, small: tuple[int, int] | None
    ) -> str:
        folder = self.folder / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix or suffix if isinstance(path, Path) else suffix
        if small:
            name, how = stem + (suffix if suffix.lower() in _JPEG else ".png"), "resized"
            where = os.fspath(path) if isinstance(path, Path) else stem
            try:
                with Image.open(path if isinstance(path, Path) else io.BytesIO(path)) as image:
                    if is_deep(image):
                        how = "resized, their colours of 16 bits made 8"
                    if image.mode == "F":
                        what, fix = "numbers of 32 bits cannot be made smaller", "save it in 16 bits"
                        raise ImageError(what, where=where, fix=fix, kind="bad-image")
                    upright = ImageOps.exif_transpose(image)
                    if upright.mode in ("P", "PA", "1", "CMYK", "LA", "RGBA"):
                        upright = upright.convert("RGB")
                    resized = upright.resize(small, Image.Resampling.LANCZOS, reducing_gap=3)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise ImageError(
                    f"damaged or cut off ({one_line(error)})", where=where, kind="bad-image"
                ) from None
            with atomic_path(folder / name) as temporary:
                resized.save(temporary, quality=95)
            self.how[how] += 1
            return name
        name = stem + suffix
        if isinstance(path, bytes):
            (folder / name).write_bytes(path)
            self.how["taken from the annotation"] += 1
            return name
        if self.images == "link" and linked(path, folder / name):
            self.how["linked"] += 1
            return name
        shutil.copyfile(path, folder / name)
        self.how["copied"] += 1
        return name
