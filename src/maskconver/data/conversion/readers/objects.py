"""One mask file per object, as the Data Science Bowl 2018 has them: `ID/images/*`, `ID/masks/*`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from ....core.files import IMAGE_SUFFIXES
from ....errors import DataError
from ..annotation import AnnotatedImage, Options, Reader, Shape, SourceClass
from ..files import Files
from ..pairs import split_of
from ..pixels import read_values


class ObjectMasks(Reader):
    """One class: `nucleus` in a folder `stage1_train`, else `object`, or the only name in `things`."""

    name, title = "object-masks", "a mask file for each object (Data Science Bowl 2018)"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        self.folders = _folders(files)
        if not self.folders:
            what = "no folders ID/images with ID/masks beside them"
            raise DataError(what, where=files.where(files.only))
        bowl = any("stage1_train" in folder for folder in self.folders)
        name = options.things[0] if len(options.things) == 1 else "nucleus" if bowl else "object"
        self.classes = [SourceClass(name, True)]
        self.count = len(self.folders)
        self.decisions.append(f'every mask is an object of the class "{name}"')

    @classmethod
    def detect(cls, files: Files) -> str | None:
        """Folders `masks` beside `images`, below a folder for each image."""
        folders = _folders(files)
        several = len(folders) > 1 or any(len(masks) > 1 for _, masks in folders.values())
        single = all(len(images) == 1 for images, _ in folders.values())
        return f"{next(iter(folders))}/masks" if folders and several and single else None

    def images(self) -> Iterator[AnnotatedImage]:
        """One image a folder."""
        for folder, (images, masks) in self.folders.items():
            where = self.files.where(f"{folder}/masks")
            if len(images) != 1:
                text = f"{len(images)} images are in {folder}/images; there must be one"
                self.faults.add("ambiguous-image" if images else "missing-image", where, text)
                continue
            try:
                image = self.image(images[0])
            except DataError as error:
                self.faults.reject(error, where)
                continue
            shapes, size = [], None
            for mask in masks:
                try:
                    values = read_values(self.files.path(mask), self.files.where(mask))
                    if size and values.shape != size:
                        what = f"is {values.shape[1]}×{values.shape[0]}, other masks are {size[1]}×{size[0]}"
                        raise DataError(what, kind="size-mismatch")
                except DataError as error:
                    self.faults.reject(error, self.files.where(mask))
                    continue
                size = values.shape[0], values.shape[1]
                shapes.append(Shape(self.classes[0].name, mask=values > 0, entry=PurePosixPath(mask).name))
            height, width = size or (None, None)
            name, split = PurePosixPath(images[0]).name, split_of(images[0])
            yield AnnotatedImage(name, image, where, split, width, height, shapes=shapes)


def _folders(files: Files) -> dict[str, tuple[list[str], list[str]]]:
    """Images and masks by the folder that has both `images` and `masks`."""
    found: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for name in files.names:
        path = PurePosixPath(name)
        kind = path.parent.name.lower()
        if kind in ("images", "masks") and path.suffix.lower() in IMAGE_SUFFIXES and len(path.parts) > 2:
            found[str(path.parent.parent)][kind == "masks"].append(name)
    return {folder: both for folder, both in found.items() if both[1]}
