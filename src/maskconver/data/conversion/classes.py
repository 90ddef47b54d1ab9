"""The label set of a conversion: classes of one name joined, things and stuff told apart, the background."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...core.categories import Categories, Category, made_up_color
from ...errors import ConfigError, DataError, nearest
from .annotation import Options, SourceClass

VOID = "void"
BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class ClassPlan:
    """What becomes of the classes.

    Attributes:
        categories: of the output.
        ids: category id by name.
        stuff: names of stuff classes.
        background: the class of pixels without annotation; "" where they stay void.
        decisions: what was decided, in plain sentences.
    """

    categories: Categories
    ids: dict[str, int]
    stuff: frozenset[str]
    background: str
    decisions: list[str]


def plan_classes(classes: Iterable[SourceClass], options: Options) -> ClassPlan:
    """Decide on the classes.

    Raises:
        ConfigError: an option names a class there is not, or one as thing and stuff.
        DataError: there are no classes.
    """
    found: dict[str, SourceClass] = {}
    said: list[str] = []
    for one in classes:
        if one.name in found:
            said.append(f'several classes are called "{one.name}"; they become one')
        else:
            found[one.name] = one
    if not found:
        raise DataError("there are no classes, so there is nothing to convert")
    _require_known(options, found)
    is_thing = {name: _kind(one, options) for name, one in found.items()}
    background = _background(options, found, is_thing, said)
    rows = list(found.values())
    if background and background not in found:
        rows.append(SourceClass(background, is_thing=False))
        is_thing[background] = False
    ids = [one.id for one in found.values()]
    own = [i for i in ids if i is not None and 1 <= i < 1 << 31]
    if len(set(own)) == len(found):
        own += [max(own) + 1] * (len(rows) - len(own))
    else:
        own = [*range(1, len(rows) + 1)]
        if any(i is not None for i in ids):
            said.append("the classes are numbered from 1, as the source's numbers are not all 1 or more")
    categories = Categories(
        Category(number, one.name, is_thing[one.name], one.color or made_up_color(k))
        for k, (number, one) in enumerate(zip(own, rows))
    )
    stuff = frozenset(name for name, thing in is_thing.items() if not thing)
    for kind, names in (("things", [n for n in is_thing if n not in stuff]), ("stuff", sorted(stuff))):
        few = names if len(names) < 16 else [*names[:12], f"… ({len(names)} classes)"]
        said.append(f"{kind}: {', '.join(few) or 'none'}")
    return ClassPlan(categories, {c.name: c.id for c in categories}, stuff, background, said)


def _kind(one: SourceClass, options: Options) -> bool:
    if one.name in options.things or one.name in options.stuff:
        return one.name in options.things
    if one.is_thing is not None:
        return one.is_thing
    return bool(options.stuff) or not options.things  # where only the things are named, all else is stuff


def _background(
    options: Options, found: dict[str, SourceClass], is_thing: dict[str, bool], said: list[str]
) -> str:
    name = options.background
    if name == VOID:
        said.append("pixels without annotation are void and do not count")
        return ""
    if name is None:
        same = [n for n in found if n.lower() == BACKGROUND and n not in options.things]
        if same and found[same[0]].is_thing is None:
            is_thing[same[0]] = False
        if not all(thing for n, thing in is_thing.items() if n not in same):
            said.append("pixels without annotation are void, as there are stuff classes")
            return ""
        name = same[0] if same else BACKGROUND
    if not name.strip():
        raise ConfigError("`background` needs the name of a class, or void")
    if is_thing.get(name):
        if name in options.things:
            raise ConfigError(f'"{name}" cannot be both the background and a thing')
        is_thing[name] = False
    said.append(f'pixels without annotation become the stuff class "{name}"')
    return name


def _require_known(options: Options, found: dict[str, SourceClass]) -> None:
    for setting, names in (("things", options.things), ("stuff", options.stuff)):
        for name in names:
            if name not in found and not (setting == "stuff" and name == options.background):
                fix = nearest(name, found)
                raise ConfigError(f'no class is called "{name}"', where=f"`{setting}`", fix=fix)
    if both := set(options.things) & set(options.stuff):
        raise ConfigError(f'"{sorted(both)[0]}" cannot be a thing and stuff')
