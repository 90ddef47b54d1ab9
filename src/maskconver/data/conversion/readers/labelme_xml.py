"""LabelMe of the MIT (and exports in its form, such as CVAT's LabelMe 3.0): one XML file per image."""

from __future__ import annotations

import posixpath
from functools import partial
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ..annotation import AnnotatedImage, Options, Shape, SourceClass, readable
from ..files import Files
from ..geometry import polygon
from ..tool import (
    NO_AREA,
    ToolReader,
    class_name,
    first_with_head,
    floats,
    png_mask,
    same_folder,
    size,
    split_of,
    xml_elements,
)

_FORM = "<pt>|<segm>|<imagesize>|LabelMe Webtool"


class LabelmeXml(ToolReader):
    """LabelMe's XML.

    Deleted objects are left out. Parts of an object (`<ispartof>`) belong to it if their class is the same.
    Masks are PNGs of the whole image in `Masks/`.
    """

    name = "labelme-xml"
    title = "LabelMe (XML)"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        self.names = files.matching(".xml")
        roots = readable(partial(_root, files), self.names)
        rows = (row.findtext("name") for root in roots for row in root.iter("object") if not _is_deleted(row))
        self.classes = [SourceClass(n) for n in dict.fromkeys(readable(class_name, rows))]

    @classmethod
    def detect(cls, files: Files) -> str | None:
        name = first_with_head(
            files, ".xml", rf"<annotation>[\s\S]*({_FORM})", refuse="<bndbox>|<segmented>|<annotations>"
        )
        return f"{name} is an annotation of LabelMe" if name else None

    def one(self, name: str) -> AnnotatedImage:
        root = _root(self.files, name)
        folder = _text(root, "folder")
        image = _text(root, "filename") or posixpath.splitext(posixpath.basename(name))[0]
        beside = same_folder(name)
        top = posixpath.dirname(beside) if "annotations" in beside.lower().split("/") else ""
        tops = dict.fromkeys((beside, posixpath.dirname(beside), top, ""))
        near = [posixpath.join(t, f, folder).rstrip("/") for t in tops for f in ("Images", "images", "")]
        masks = [posixpath.join(t, f) for t in tops for f in (f"Masks/{folder}".rstrip("/"), "Masks", "")]
        where = self.files.where(name)
        rows = [row for row in root.iter("object") if not _is_deleted(row)]
        owner = _owners(rows)

        def make(row: ET.Element) -> Shape | str | None:
            shape = Shape(class_name(row.findtext("name")), group=owner.get(_text(row, "id")))
            if (outline := row.find("polygon")) is not None:
                corners = floats(pt.findtext(k) for pt in outline.iter("pt") for k in ("x", "y"))
                if 0 < len(corners) < 6 and _text(row, "type") in ("point", "line"):
                    return NO_AREA
                shape.polygons = [polygon(corners)]
            elif (mask := row.findtext("segm/mask")) is not None:
                shape.mask = self._mask(mask.strip(), masks)
            else:
                raise DataError("has neither a polygon nor a mask", kind="bad-shape")
            return shape

        return AnnotatedImage(
            name=posixpath.join(folder, posixpath.basename(image.replace("\\", "/"))),
            path=self.image(image, *near, by_stem=not _text(root, "filename")),
            where=where,
            split=split_of(name),
            width=size(root.findtext("imagesize/ncols")),
            height=size(root.findtext("imagesize/nrows")),
            shapes=self.shapes(((f"object {_text(row, 'id')}", row) for row in rows), where, make),
        )

    def _mask(self, name: str, near: list[str]) -> NDArray[np.bool_]:
        try:
            return png_mask(self.files.image(name, *near).read_bytes())
        except DataError as error:
            if error.kind == "missing-image":
                raise DataError(f'there is no mask "{name}"', kind="missing-mask") from None
            raise
        except OSError as error:
            raise DataError(
                f'the mask "{name}" cannot be read ({error.strerror})', kind="broken-mask"
            ) from None


def _root(files: Files, name: str) -> ET.Element:
    for element in xml_elements(files, name, "annotation"):
        return element
    raise DataError(
        "is not a LabelMe file: it has no <annotation>", where=files.where(name), kind="other-xml"
    )


def _text(element: ET.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _is_deleted(row: ET.Element) -> bool:
    return _text(row, "deleted") in ("1", "true")


def _owners(rows: list[ET.Element]) -> dict[str, str]:
    """By object id: the id of the object of its class that it is, in the end, a part of."""
    names = {_text(row, "id"): " ".join(_text(row, "name").split()) for row in rows}
    above = {_text(row, "id"): _text(row, "parts/ispartof") for row in rows}
    owners = {}
    for own in above:
        top, seen = own, {own}
        while (up := above.get(top, "")) in names and names[up] == names[own] and up not in seen:
            top = up
            seen.add(up)
        owners[own] = top
    tops = {top for own, top in owners.items() if top != own}
    return {own: top for own, top in owners.items() if own and top in tops}
