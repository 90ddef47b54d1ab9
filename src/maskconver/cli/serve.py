"""Open a page on which images can be dropped to see their segments, and an HTTP interface to the same model.

Everything runs on this machine; nothing is written to disk, and only this machine can reach it unless --host
says otherwise.

Example: maskconver serve nuclei
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .options import (
    add_common,
    add_model,
    add_postprocess_options,
    add_tile_options,
    postprocess_settings,
    tile_settings,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

NATIVE_PIXELS = 16 << 20  # of an image that the network sees at its own size, in one piece
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver serve`."""
    add = parser.add_argument
    add_model(parser)
    add("--host", type=str, default="127.0.0.1", help="address to listen at; 0.0.0.0 for all of this machine")
    add("--port", type=int, default=8000, help="port to listen at; 0 chooses a free one")
    add_postprocess_options(parser)
    add_tile_options(parser)
    add_common(parser, "proposals", "device", "white_level")
    add("--batch-size", type=int, default=1, help="images of one size that run together when several wait")
    add("--queue", type=int, default=32, help="requests that may wait; more get the status 503")
    add("--timeout", type=float, default=60.0, help="seconds after which a request is given up")
    add("--max-mb", type=int, default=64, help="megabytes of the largest request")
    add(
        "--max-pixels",
        type=int | None,
        default=None,
        help="refuse images with more pixels than this; 179 million by default, or 16 million if --tile none "
        "makes a model that keeps the size of images see them whole",
    )
    add(
        "--allow-origin",
        type=list[str],
        default=[],
        help="web sites whose pages may use the interface, such as [https://example.org]",
    )


def run(args: Namespace) -> int:
    """Runs `maskconver serve` until it is stopped."""
    from ..errors import ConfigError, MissingExtraError

    for name, low in (("queue", 1), ("max_mb", 1), ("batch_size", 1), ("port", 0), ("timeout", 0.001)):
        if getattr(args, name) < low:
            raise ConfigError(f"`{name}` must be at least {low}, got {getattr(args, name)}")
    if args.port > 65535:
        raise ConfigError(f"`port` must be at most 65535, got {args.port}")
    try:
        from ..serve.app import create_app
        from ..serve.server import create_server, use_one_heap
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("uvicorn", "starlette", "multipart", "python_multipart"):
            raise MissingExtraError("serving", "serve") from None
        raise
    import logging
    import socket

    from ..inference.predictor import Predictor

    use_one_heap()
    limits = {} if args.max_pixels is None else {"max_pixels": args.max_pixels}
    predictor = Predictor(
        args.model,
        device=args.device,
        proposals=args.proposals,
        batch_size=args.batch_size,
        white_level=args.white_level,
        **limits,
        **postprocess_settings(args),
        **tile_settings(args),
    )
    if args.max_pixels is None and predictor.tiles is None and predictor.runtime.input.mode == "native":
        predictor.max_pixels = NATIVE_PIXELS
    local = args.host in LOOPBACK
    app = create_app(
        predictor,
        name=args.model,
        hosts=[*LOOPBACK, "[::1]"] if local else None,
        max_bytes=args.max_mb << 20,
        queue=args.queue,
        seconds=args.timeout,
        allow_origins=args.allow_origin,
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    # By its number, or asyncio leaves TCP_NODELAY off, and each answer waits 40 ms for the client's receipt.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((args.host, args.port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {args.host}:{args.port} ({error.strerror or error})",
            fix="choose another `port` or `host`",
        ) from None
    port = listening.getsockname()[1]
    shown_host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"open http://{shown_host}:{port} in a browser; Ctrl+C stops", flush=True)
    if not local:
        print("maskconver: warning: other machines can reach this server", file=sys.stderr)
    create_server(app).run(sockets=[listening])
    return 0
