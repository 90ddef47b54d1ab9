"""CVAT for images 1.1: `annotations.xml` and `images/<split>`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from xml.sax.saxutils import quoteattr

from .geometry import runs
from .item import Item, Output, below

_CROWD = '<attribute name="is_crowd">true</attribute>'
_CROWD_ATTRIBUTE = (
    "<attribute><name>is_crowd</name><mutable>False</mutable><input_type>checkbox</input_type>"
    "<default_value>false</default_value><values>false</values></attribute>"
)


@contextmanager
def cvat(out: Output) -> Iterator[Callable[[Item], None]]:
    """Polygons; segments in several parts or with holes as masks."""
    count = 0
    with (out.folder / "annotations.xml").open("w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        file.write("<meta><task><labels>\n")
        for c in out.categories:
            name = quoteattr(c.name)[1:-1]
            color = "".join(f"{v:02x}" for v in c.color)
            file.write(f"<label><name>{name}</name><color>#{color}</color>")
            file.write(f"<attributes>{_CROWD_ATTRIBUTE}</attributes></label>\n")
        file.write("</labels></task></meta>\n")

        def write(item: Item) -> None:
            nonlocal count
            out.place(item, below("images", item.split, item.name))
            height, width = item.size
            subset = f" subset={quoteattr(item.split)}" if item.split else ""
            size = f'width="{width}" height="{height}"'
            file.write(f'<image id="{count}" name={quoteattr(item.name)}{subset} {size}>\n')
            for segment in item.result:
                inside = _CROWD if segment.id in item.crowd else ""
                start = f'label={quoteattr(segment.category)} source="file" occluded="0"'
                if (ring := item.single_ring(segment)) is not None:
                    points = ";".join(f"{x},{y}" for x, y in ring.tolist())
                    file.write(f'<polygon {start} points="{points}" z_order="0">{inside}</polygon>\n')
                else:
                    left, top, w, h = segment.bbox
                    rle = ", ".join(map(str, runs(item.crop(segment))))
                    box = f'left="{left}" top="{top}" width="{w}" height="{h}"'
                    file.write(f'<mask {start} rle="{rle}" {box} z_order="0">{inside}</mask>\n')
            file.write("</image>\n")
            count += 1

        yield write
        file.write("</annotations>\n")
