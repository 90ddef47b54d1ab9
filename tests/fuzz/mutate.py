"""Spoils files as storage, other programs and bad intentions do; everything follows from one generator."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

ODD_NUMBERS = (
    *(0, 1, -1, 2, 127, 128, 255, 256, 65535, 65536, 2**24 - 1, 2**24, 2**31 - 1, 2**31, -(2**31), 2**32),
    *(2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 2**70, 10**400, 0.5, -0.0, 1e-300, 1e308),
    *(float("nan"), float("inf"), float("-inf")),
)
ODD_TEXTS = (
    *(
        "",
        " ",
        "a",
        "\0",
        "..",
        "../../escaped.png",
        "/etc/passwd",
        "C:\\a.png",
        "a\nb",
        "é",
        "e\u0301",
        "😀",
    ),
    *("x" * 5000, "NaN", "null", "true", "1", "1e999", "[bold]", "%s", "{0}", "\ud800", "\u202e", "~"),
    "!!python/name:os.system",
)


def odd_value(rng: random.Random) -> Any:
    """A value that should not be there."""
    kind = rng.randrange(6)
    if kind < 2:
        return rng.choice(ODD_NUMBERS)
    if kind < 4:
        return rng.choice(ODD_TEXTS)
    if kind == 4:
        return rng.choice((None, True, False, [], {}, [[]], [None], {"a": {}}, [0] * 100))
    deep: Any = []
    for _ in range(rng.choice((3, 60))):
        deep = [deep]
    return deep


def values(content: Any, rng: random.Random, times: int = 0) -> Any:
    """JSON with some of its values replaced, left out, doubled or exchanged."""
    for _ in range(times or rng.choice((1, 1, 1, 2, 4))):
        content = _one_value(content, rng)
    return content


def _one_value(node: Any, rng: random.Random) -> Any:
    if not isinstance(node, dict | list) or not node or rng.random() < 0.03:
        if isinstance(node, int | float) and not isinstance(node, bool) and rng.random() < 0.4:
            return node + rng.choice((-1, 1, 0.5, 1000, -1000))
        return odd_value(rng)
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key, act = rng.choice(keys), rng.randrange(12)
    new = dict(node) if isinstance(node, dict) else list(node)
    if act == 0:
        del new[key]
    elif act == 1 and isinstance(new, list):
        new.append(new[key])
    elif act == 1:
        new[rng.choice(("id", "x", "__proto__", ""))] = new[key]
    elif act == 2:
        new[key] = new[rng.choice(keys)]
    else:
        new[key] = _one_value(new[key], rng)
    return new


def json_text(data: bytes, rng: random.Random) -> bytes:
    """A JSON file with odd values, or with its text spoiled."""
    kind = rng.randrange(12)
    if kind == 0:
        return raw(data, rng)
    if kind == 1:
        deep = (b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5000)
        other = (b"\xef\xbb\xbf" + data, data.decode().encode("utf-16"), data + data, b"\0" * 100)
        return rng.choice((b"", b"null", b"[]", b"{}", *deep, *other))
    text = json.dumps(values(json.loads(data), rng), ensure_ascii=rng.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def text(data: bytes, rng: random.Random) -> bytes:
    """A text file with words exchanged, lines doubled or left out, numbers replaced."""
    lines = data.decode("utf-8", "replace").splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not lines:
            break
        k, act = rng.randrange(len(lines)), rng.randrange(6)
        if act == 0:
            del lines[k]
        elif act == 1:
            lines.insert(k, lines[rng.randrange(len(lines))])
        elif act == 2:
            lines[k] = lines[k][: rng.randrange(len(lines[k]) + 1)]
        else:
            words = lines[k].split(" ")
            words[rng.randrange(len(words))] = str(odd_value(rng))
            lines[k] = " ".join(words)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def raw(data: bytes, rng: random.Random) -> bytes:
    """Any file with bytes changed, put in, left out or doubled, or cut off."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not out:
            break
        at, act = rng.randrange(len(out)), rng.randrange(8)
        length = rng.choice((1, 2, 4, 16, 256))
        if act == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif act == 1:
            out[at] = rng.randrange(256)
        elif act == 2:
            del out[at : at + length]
        elif act == 3:
            out[at:at] = out[at : at + length]
        elif act == 4:
            del out[at:]
        elif act == 5:
            form = rng.choice(("<H", ">H", "<I", ">I", "<Q"))
            number = rng.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63))
            packed = struct.pack(form, number % 2 ** (8 * struct.calcsize(form)))
            out[at : at + len(packed)] = packed
        elif act == 6:
            out[at : at + length] = bytes(min(length, len(out) - at))
        else:
            out[at:at] = bytes(rng.randrange(256) for _ in range(length))
    return bytes(out)


def head(data: bytes, rng: random.Random) -> bytes:
    """A file whose first 400 bytes are spoiled: the rest is mostly pixels or weights."""
    return raw(data[:400], rng) + data[400:]


def png(data: bytes, rng: random.Random) -> bytes:
    """A PNG with chunks changed, moved, doubled or left out; their check sums mostly hold."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(rng.choice((1, 1, 2))):
        k, act = rng.randrange(len(chunks)), rng.randrange(7)
        kind, body = chunks[k]
        if act == 0 and len(chunks) > 1:
            del chunks[k]
        elif act == 1:
            chunks.insert(rng.randrange(len(chunks) + 1), chunks[k])
        elif act == 2:
            chunks.insert(rng.randrange(1, len(chunks) + 1), _odd_chunk(rng))
        elif act == 3 and chunks[0][0] == b"IHDR":
            header = list(struct.unpack(">IIBBBBB", chunks[0][1][:13].ljust(13, b"\0")))
            place = rng.randrange(7)
            header[place] = rng.choice(
                (0, 1, 2, 3, 4, 6, 7, 8, 16, 255, 65535, 2**31 - 1)[: 12 if place < 2 else 10]
            )
            chunks[0] = b"IHDR", struct.pack(">IIBBBBB", *header)
        elif kind == b"IDAT" and act == 4:
            try:
                pixels = bytearray(zlib.decompress(body))
                chunks[k] = kind, zlib.compress(raw(bytes(pixels), rng))
            except zlib.error:
                chunks[k] = kind, raw(body, rng)
        else:
            chunks[k] = kind, raw(body, rng)
    out = bytearray(data[:8])
    for kind, body in chunks:
        check = zlib.crc32(kind + body) if rng.random() < 0.9 else rng.randrange(2**32)
        out += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)
    return bytes(out)


def _odd_chunk(rng: random.Random) -> tuple[bytes, bytes]:
    kinds = b"tRNS PLTE gAMA acTL fcTL fdAT eXIf iCCP zTXt iTXt sBIT pHYs IEND IHDR aaaa".split()
    kind = rng.choice((*kinds, b"\0\0\0\0"))
    if kind in (b"iCCP", b"zTXt"):
        return kind, b"name\0\0" + zlib.compress(
            bytes(rng.choice((10, 1 << 20, 80 << 20)) if kind == b"zTXt" else 99)
        )
    return kind, bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 4, 13, 26, 300))))


def jpeg(data: bytes, rng: random.Random) -> bytes:
    """A JPEG with markers changed, doubled, left out or put in."""
    parts, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        parts.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length
    rest = data[at:]
    for _ in range(rng.choice((1, 1, 2))):
        k, act = rng.randrange(len(parts)), rng.randrange(7)
        marker, body = parts[k]
        if act == 0 and len(parts) > 1:
            del parts[k]
        elif act == 1:
            parts.insert(rng.randrange(len(parts) + 1), parts[k])
        elif act == 2:
            exif = b"Exif\0\0MM\0*\0\0\0\x08" + bytes(rng.randrange(4)) + struct.pack(
                ">HHHIHHI", rng.choice((1, 60000)), 0x0112, rng.choice((2, 3, 4, 12)), rng.choice((1, 2**31)),
                rng.choice((0, 1, 3, 6, 8, 9, 65535)), 0, rng.choice((0, 8, 2**31)),
            )  # fmt: skip
            parts.insert(0, (0xE1, exif))
        elif act == 3:
            parts[k] = rng.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xDD, 0xEE, 0xE2)), body
        elif act == 4:
            rest = raw(rest, rng)
        else:
            parts[k] = marker, raw(body, rng)
    out = bytearray(data[:2])
    for marker, body in parts:
        out += struct.pack(">BBH", 0xFF, marker, min(len(body) + 2, 65535)) + body
    return bytes(out + rest)


def tiff(data: bytes, rng: random.Random) -> bytes:
    """A TIFF with entries of its first directory changed."""
    out, order = bytearray(data), "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[start : start + 2])
    for _ in range(rng.choice((1, 1, 2, 3))):
        act, at = rng.randrange(6), start + 2 + 12 * rng.randrange(count)
        if act == 0:
            out[at + 2 : at + 4] = struct.pack(
                order + "H", rng.choice((0, 1, 2, 3, 4, 5, 11, 12, 13, 16, 99))
            )
        elif act == 1:
            out[at + 4 : at + 8] = struct.pack(order + "I", rng.choice((0, 1, 2, 3, 65536, 2**31, 2**32 - 1)))
        elif act in (2, 3):
            number = rng.choice((0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 65535, 32946, 2**31, start, len(data)))
            out[at + 8 : at + 12] = struct.pack(order + "I", number)
        elif act == 4:
            out[at : at + 2] = struct.pack(
                order + "H", rng.choice((254, 258, 259, 262, 273, 274, 277, 284, 330, 339))
            )
        else:
            end = start + 2 + 12 * count
            out[end : end + 4] = struct.pack(order + "I", rng.choice((0, start, 2, len(data), 2**31)))
    return bytes(out)


def archive(data: bytes, rng: random.Random) -> bytes:
    """A zip with its directory, its headers or its names spoiled."""
    at = data.rfind(b"PK\x01\x02")
    if rng.random() < 0.5 and at > 0:
        return data[:at] + raw(data[at:], rng)
    return raw(data, rng)


def safetensors(data: bytes, rng: random.Random) -> bytes:
    """A model file with its header, its offsets or its description spoiled."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    act = rng.randrange(8)
    if act == 0:
        return raw(data[: 8 + length], rng) + rest
    if act == 1:
        return struct.pack("<Q", rng.choice((0, 1, length - 1, length + 1, 2**31, 2**63))) + data[8:]
    if act == 2:
        return data[: rng.randrange(len(data))]
    if act == 3:
        name = rng.choice([k for k in header if k != "__metadata__"])
        header[name] = values(header[name], rng)
    elif act == 4 and rng.random() < 0.3:
        header = values(header, rng)
    else:
        about = json.loads(header["__metadata__"]["maskconver"])
        part = rng.choice(("config", "categories", "", ""))
        about = about | {part: values(about[part], rng)} if part else values(about, rng)
        header["__metadata__"]["maskconver"] = json.dumps(about)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def onnx(data: bytes, rng: random.Random) -> bytes:
    """An ONNX file: its description, its graph's fields, paths of outside data, or its bytes."""
    from onnx import ModelProto, TensorProto

    if rng.random() < 0.3:
        return head(data, rng) if rng.random() < 0.5 else raw(data, rng)
    model = ModelProto.FromString(data)
    act = rng.randrange(7)
    if act < 3:
        for entry in model.metadata_props:
            if entry.key == "maskconver":
                entry.value = json.dumps(values(json.loads(entry.value), rng), ensure_ascii=True)
    elif act == 3:
        tensor = rng.choice(model.graph.initializer)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", rng.choice(("/etc/passwd", "../../secret", "x.bin"))),
            ("length", str(2**40)),
        ):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    elif act == 4:
        node = rng.choice(model.graph.node)
        field = rng.choice(("op_type", "domain", "name"))
        setattr(node, field, rng.choice(("", "If", "Loop", "evil.ops", "MatMul", "x" * 300)))
    elif act == 5:
        tensor = rng.choice(model.graph.initializer)
        tensor.dims[:] = [rng.choice((0, 1, -1, 2**31, 2**62)) for _ in tensor.dims]
    else:
        del model.graph.node[rng.randrange(len(model.graph.node))]
    return bytes(model.SerializeToString())


def recipe(data: bytes, rng: random.Random) -> bytes:
    """A recipe with odd values, spoiled text, or tags that make YAML readers build objects."""
    import yaml

    kind = rng.randrange(10)
    if kind == 0:
        return text(data, rng)
    if kind == 1:
        tags = "object/apply:os.system ['touch CANARY']", "name:os.system", "module:os"
        odd = "&a [*a, *a]", "{a: &b [*b]}", "!!binary x", "2001-99-99", "? x"
        evil = rng.choice((*(f"!!python/{tag}" for tag in tags), *odd))
        lines = data.decode().splitlines()
        k = rng.randrange(len(lines))
        lines[k] = lines[k].partition(":")[0] + ": " + evil
        return "\n".join(lines).encode()
    if kind == 2:
        laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
        )
        return laughs.encode() + data
    return yaml.safe_dump(values(yaml.safe_load(data), rng), allow_unicode=True).encode(
        "utf-8", "surrogatepass"
    )


BY_SUFFIX: dict[str, Callable[[bytes, random.Random], bytes]] = {
    **dict.fromkeys((".webp", ".gif", ".bmp"), head),
    **dict.fromkeys((".json", ".jsonl"), json_text),
    **dict.fromkeys((".xml", ".txt", ".csv"), text),
    **dict.fromkeys((".jpg", ".jpeg"), jpeg),
    ".png": png,
    ".tif": tiff,
    ".zip": archive,
    ".yaml": recipe,
    ".safetensors": safetensors,
    ".onnx": onnx,
}


def file(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """A file spoiled as its kind is, or like any other."""
    special = BY_SUFFIX.get(suffix.lower(), raw)
    try:
        return raw(data, rng) if rng.random() < 0.15 else special(data, rng)
    except (ValueError, KeyError, struct.error, IndexError):
        return raw(data, rng)
