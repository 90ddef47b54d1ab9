"""The formats that can be converted, and how the one of a source is recognised."""

from __future__ import annotations

from importlib import import_module

from ...errors import ConfigError, DataError
from .annotation import Reader
from .files import Files

# name: module in `readers` and class there. In the order in which messages list them.
FORMATS: dict[str, tuple[str, str]] = {
    "coco": ("coco", "Coco"),
    "coco-panoptic": ("panoptic", "CocoPanoptic"),
    "yolo-seg": ("yolo", "Yolo"),
    "segment-anything": ("segment_anything", "SegmentAnything"),
    "panoptic-2ch": ("panoptic", "TwoChannels"),
    "labelme": ("labelme", "Labelme"),
    "labelme-xml": ("labelme_xml", "LabelmeXml"),
    "cvat": ("cvat", "Cvat"),
    "via": ("via", "Via"),
    "label-studio": ("label_studio", "LabelStudio"),
    "supervisely": ("supervisely", "Supervisely"),
    "cityscapes": ("cityscapes", "Cityscapes"),
    "mapillary": ("mapillary", "Mapillary"),
    "ade20k": ("ade20k", "Ade20k"),
    "scene-parsing": ("ade20k", "SceneParsing"),
    "voc": ("voc", "Voc"),
    "object-masks": ("objects", "ObjectMasks"),
    "instance-masks": ("masks", "InstanceMasks"),
    "class-masks": ("masks", "ClassMasks"),
    "color-masks": ("masks", "ColorMasks"),
}


def reader_of(name: str) -> type[Reader]:
    """The reader of a format.

    Raises:
        ConfigError: there is no such format.
    """
    if name not in FORMATS:
        raise ConfigError(f'no format "{name}"; there are {", ".join(FORMATS)}')
    module, cls = FORMATS[name]
    found: type[Reader] = getattr(import_module(f".readers.{module}", __package__), cls)
    return found


def recognise(files: Files) -> tuple[type[Reader], str]:
    """The format of a source, and why it is that one.

    Raises:
        DataError: none fits, or several do; names them and the setting that decides.
    """
    found = [(reader, why) for name in FORMATS if (why := (reader := reader_of(name)).detect(files))]
    found = [row for row in found if not row[0].generic] or found
    included = {name for reader, _ in found for name in reader.includes}
    found = [row for row in found if row[0].name not in included]
    if len(found) == 1:
        return found[0]
    where = files.where(files.only)
    if not found:
        if other := _other(files):
            raise DataError(other, where=where, fix="export outlines or masks from the tool it was made with")
        _require_sound(files)
        known = ", ".join(FORMATS)
        fix = f"say which with `from_format`: {known}"
        raise DataError("no annotation format is recognised here", where=where, fix=fix)
    names = ", ".join(f"{reader.name} ({why})" for reader, why in found)
    raise DataError(f"several formats fit: {names}", where=where, fix="say which with `from_format`")


def _require_sound(files: Files) -> None:
    """Refuses the first annotation file that cannot be read: no reader recognised it.

    Raises:
        DataError: it is not JSON, XML or YAML, as its name says.
    """
    from .readers.yolo import read_yaml
    from .tool import xml_elements

    for name in files.matching(".json")[:5]:
        files.json(name)
    for name in files.matching(".yaml", ".yml")[:5]:
        read_yaml(files, name)
    for name in files.matching(".xml")[:5]:
        list(xml_elements(files, name))


# What lies there instead: part of a file's name, of its beginning, and what to say of it.
_OTHERS = (
    (".tfrecord", "", "is a TFRecord file, which is not read"),
    ("_classes.csv", "", "names the classes of whole images and has no outlines"),
    (".createml.json", "", "has boxes and no outlines (CreateML)"),
    (".xml", "<bndbox>", "has boxes and no outlines (Pascal VOC)"),
)


def _other(files: Files) -> str:
    """What is known of a source that no reader takes; "" where nothing is."""
    for ending, mark, text in _OTHERS:
        for name in files.matching(ending)[:5]:
            if mark in files.head(name):
                return f"{name} {text}"
    return ""
