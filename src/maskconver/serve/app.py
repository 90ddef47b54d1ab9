"""The HTTP interface: requests in, segmentations out, and nothing else.

No path that a client names is opened, and no upload is written to disk.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .. import __version__
from ..core.panoptic_png import encode_panoptic_png
from ..core.segmentation import Segmentation
from ..data.export_to.item import Item
from ..data.export_to.labelme import labelme_content
from ..errors import ConfigError, ImageError, MaskconverError, one_line
from ..inference.predictor import Predictor
from .describe import FORMATS, THRESHOLDS, formats, metrics_text, model_content, openapi_content
from .session import Busy, Kept, Session, adjustable

log = logging.getLogger("maskconver.serve")

PARAMETERS = (*THRESHOLDS, "format", "token", "name")
PAGE = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/backend.js": ("server.js", "text/javascript"),
    "/paint.js": ("paint.js", "text/javascript"),
    "/app.css": ("app.css", "text/css"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def create_app(
    predictor: Predictor,
    *,
    name: str = "model",
    hosts: list[str] | None = None,
    max_bytes: int = 64 << 20,
    queue: int = 32,
    per_client: int = 16,
    seconds: float = 60.0,
    memory: int = 256 << 20,
    allow_origins: list[str] | None = None,
) -> Starlette:
    """The application, for any ASGI server.

    Args:
        predictor: of the model; one network runs at a time, with up to its `batch_size` images.
        name: what the page calls the model.
        hosts: host names that requests may ask for; any if left out. Keeps other sites' names from being
            pointed at this address.
        max_bytes: larger request bodies are refused with 413.
        queue: requests that may wait; more are refused with 503.
        per_client: requests of one address at a time; more are refused with 429.
        seconds: longest time for a request, reading its body included.
        memory: bytes of recent images and proposals kept for new thresholds.
        allow_origins: web sites that may use the interface from their pages (CORS); none if left out.
    """
    session = Session(predictor, queue=queue, memory=memory)
    statuses: Counter[int] = Counter()
    clients: Counter[str] = Counter()

    async def segment(request: Request) -> Response:
        client = request.client.host if request.client else ""
        if clients[client] >= per_client:
            raise Refused(
                429, f"{per_client} requests from this address are being processed; wait for their results"
            )
        clients[client] += 1
        try:
            return await asyncio.wait_for(_segment(request, session, max_bytes), seconds)
        except TimeoutError:
            raise Refused(504, f"no answer within {seconds:g} seconds") from None
        finally:
            clients[client] -= 1
            if not clients[client]:
                del clients[client]

    async def model(request: Request) -> Response:
        return JSONResponse(model_content(predictor, name))

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__, "waiting": session.waiting})

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(metrics_text(session, statuses), media_type="text/plain; version=0.0.4")

    async def openapi(request: Request) -> Response:
        return JSONResponse(openapi_content(predictor, max_bytes))

    async def page(request: Request) -> Response:
        file, kind = PAGE[request.url.path]
        return Response(files("maskconver.serve").joinpath("page", file).read_bytes(), media_type=kind)

    async def around(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        start = time.perf_counter()
        try:
            answer = await call(request)
        except Exception as error:
            answer = _answer_to(error)
        statuses[answer.status_code] += 1
        for header, value in HEADERS.items():
            answer.headers.setdefault(header, value)
        spent = 1000 * (time.perf_counter() - start)
        log.info("%s %s %d %.0f ms", request.method, request.url.path, answer.status_code, spent)
        return answer

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        session.close()

    middleware = [Middleware(BaseHTTPMiddleware, dispatch=around)]
    if hosts:
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=hosts))
    if allow_origins:
        from starlette.middleware.cors import CORSMiddleware

        middleware.append(
            Middleware(CORSMiddleware, allow_origins=allow_origins, allow_methods=["GET", "POST"])
        )
    routes = [
        *(Route(path, page) for path in PAGE),
        Route("/v1/segment", segment, methods=["POST"]),
        Route("/v1/model", model),
        Route("/healthz", health),
        Route("/metrics", metrics),
        Route("/openapi.json", openapi),
    ]

    async def failed(request: Request, error: Exception) -> Response:
        return _answer_to(error)

    handlers: Any = {Refused: failed, MaskconverError: failed, ClientDisconnect: failed}
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers=handlers)


def _answer_to(error: Exception) -> Response:
    headers = {}
    if isinstance(error, Refused):
        status, reason = error.status, error.reason
    elif isinstance(error, Busy):
        status, reason = 503, one_line(error)
    elif isinstance(error, ImageError):
        status, reason = (413 if "max_pixels" in str(error) else 422), one_line(error)
    elif isinstance(error, ConfigError):
        status, reason = 400, one_line(error)
    elif isinstance(error, ClientDisconnect):
        status, reason = 400, "the request ended before its body"
    elif isinstance(error, MemoryError):
        status, reason = 413, "not enough memory for this image"
    else:
        log.error("request failed: %s", one_line(error), exc_info=not isinstance(error, MaskconverError))
        status, reason = 500, one_line(error) if isinstance(error, MaskconverError) else "internal error"
    if status in (429, 503):
        headers["Retry-After"] = "1"
    return JSONResponse({"error": reason}, status, headers)


async def _segment(request: Request, session: Session, max_bytes: int) -> Response:
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in PARAMETERS:
            raise Refused(400, f"no parameter {name[:40]!r}; there are {', '.join(PARAMETERS)}")
        if count > 1:
            raise Refused(400, f"{name} is given {count} times; give it once")
    form = request.query_params.get("format", "json")
    if form not in (known := formats(session.predictor)):
        smaller = " with --output-side" if form in FORMATS else ""
        raise Refused(400, f"no format {form[:40]!r}{smaller}; there are {', '.join(known)}")
    settings = _settings(request)
    if settings and not adjustable(session.predictor):
        raise Refused(400, "this file has its post-processing inside, so thresholds cannot be changed")
    if (token := request.query_params.get("token")) is not None:
        found = await session.again(token, settings)
        if found is None:
            raise Refused(410, "this image is no longer kept; send it again")
        kept, result = found
    else:
        token, kept, result = await session.segment(await _body(request, max_bytes), settings)
    called = request.query_params.get("name", "image.png")[:255]
    return await session.work(_render, form, token, kept, result, called)


def _settings(request: Request) -> dict[str, float]:
    settings = {}
    for name, most in THRESHOLDS.items():
        text = request.query_params.get(name)
        if text is None:
            continue
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= most:  # NaN, too
            raise Refused(400, f"{name} must be a number from 0 to {most:g}")
        settings[name] = value
    return settings


async def _body(request: Request, max_bytes: int) -> bytes:
    """The image of a request: its whole body, or the first file of a form."""
    stated = request.headers.get("content-length", "0")
    if not stated.isdigit() or int(stated) > max_bytes:
        raise Refused(413, f"the request is larger than {max_bytes >> 20} MB")
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await _form(request, max_bytes)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise Refused(413, f"the request is larger than {max_bytes >> 20} MB")
        parts.append(part)
    if not size:
        raise Refused(400, "the request has no image: send the bytes of a file as its body")
    return b"".join(parts)


async def _form(request: Request, max_bytes: int) -> bytes:
    from starlette.datastructures import Headers
    from starlette.formparsers import MultiPartException, MultiPartParser

    class Parser(MultiPartParser):
        spool_max_size = max_bytes + 1  # never to disk

    async def bounded() -> AsyncIterator[bytes]:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > max_bytes:
                raise Refused(413, f"the request is larger than {max_bytes >> 20} MB")
            yield part

    try:
        parser: Any = Parser(Headers(raw=request.headers.raw), bounded(), max_files=1, max_fields=8)  # type: ignore[arg-type]
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError):
        raise Refused(400, "the form cannot be read; send one file in it") from None
    for _, value in form.multi_items():
        if hasattr(value, "read"):
            return bytes(await value.read())
    raise Refused(400, "the form has no file")


def _render(form: str, token: str, kept: Kept, result: Segmentation, called: str) -> Response:
    if form == "png":
        return Response(encode_panoptic_png(result.ids), media_type="image/png")
    if form == "overlay":
        buffer = io.BytesIO()
        result.resized(kept.image.shape[:2]).draw(kept.image).save(buffer, "PNG", compress_level=1)
        return Response(buffer.getvalue(), media_type="image/png")
    if form == "csv":
        return PlainTextResponse(_csv(result), media_type="text/csv")
    if form == "geojson":
        return JSONResponse(result.to_geojson(), media_type="application/geo+json")
    if form == "labelme":
        seen = replace(result, segments=[s for s in result if s.area])
        return JSONResponse(labelme_content(Item(seen, called, scored=True), called))
    height, width = result.ids.shape
    if form == "coco":
        row = result.to_coco(0, "image.png")
        image = {"id": 0, "file_name": "image", "height": height, "width": width}
        content = {"images": [image], "annotations": [row], "categories": result.categories.to_json()}
        return JSONResponse(content)
    ids = base64.b64encode(encode_panoptic_png(result.ids)).decode("ascii")
    segments = [
        {
            "id": s.id,
            "category": s.category,
            "category_id": s.category_id,
            "thing": s.is_thing,
            "score": round(s.score, 4),
            "area": s.area,
            "bbox": list(s.bbox),
        }
        for s in result
    ]
    return JSONResponse({"token": token, "height": height, "width": width, "segments": segments, "ids": ids})


def _csv(result: Segmentation) -> str:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["id", "category", "thing", "score", "area", "x", "y", "width", "height"])
    for s in result:
        table.writerow([s.id, s.category, int(s.is_thing), f"{s.score:.4f}", s.area, *s.bbox])
    return text.getvalue()
