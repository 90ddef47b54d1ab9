"""The HTTP interface against Python: one image after the other, four clients at once, and memory over time.

Run: .venv/bin/python benchmarks/serve.py --images 64 --requests 2000

A server runs in a process of its own (`maskconver serve`, as a user starts it). The first table is about one
client that sends one image after the other: the page asks for the same answer. The second compares four
clients at once with `Predictor.stream` over the same files. The third asks for the resident memory of the
server while requests go on. Images are generated cells.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from harness import arguments, in_turn, machine, median, table
from maskconver import Predictor
from maskconver.data.synth.write import write_dataset

CLIENTS = 4


def start(model: str, *words: str) -> tuple[subprocess.Popen[str], str]:
    """A server of its own, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "maskconver.cli", "serve", model, "--port", str(port), *words]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    if "open http" not in server.stdout.readline():
        raise SystemExit(f"{' '.join(command)}: the server did not start")
    address = f"http://127.0.0.1:{port}"
    for _ in range(200):
        try:
            httpx.get(f"{address}/healthz")
            return server, address
        except httpx.HTTPError:
            time.sleep(0.05)
    raise SystemExit("the server does not answer")


def resident(server: subprocess.Popen[str]) -> float:
    """MB of a process now."""
    lines = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1000


def send(client: httpx.Client, address: str, data: bytes) -> None:
    """What the page does: an image, and the answer whole."""
    client.post(f"{address}/v1/segment", content=data).raise_for_status()


def many(address: str, files: list[bytes], clients: int) -> float:
    """Seconds until several clients have sent these files between them."""

    def work(part: list[bytes]) -> None:
        with httpx.Client(timeout=120) as client:
            for data in part:
                send(client, address, data)

    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, [files[i::clients] for i in range(clients)]))
    return time.perf_counter() - begin


def one(args: Namespace, predictor: Predictor, paths: list[Path], server: Any, address: str) -> None:
    """The time of one image, and of a new threshold."""
    data = paths[0].read_bytes()
    with httpx.Client(timeout=120) as client:
        calls = {"Python": lambda: predictor(paths[0]), "HTTP": lambda: send(client, address, data)}
        times = in_turn(calls, args.rounds, clock=time.perf_counter, warm=min(args.rounds, 3))
        found = client.post(f"{address}/v1/segment", content=data).json()
        again = f"{address}/v1/segment?token={found['token']}&score_threshold=0.4"
        rerun = median(lambda: client.post(again).raise_for_status(), 15, clock=time.perf_counter)
    row = table("one image", "ms, median", "ms, least")
    for way, values in times.items():
        row(way, f"{1000 * statistics.median(values):.0f}", f"{1000 * min(values):.0f}")
    row("HTTP, new threshold", f"{1000 * rerun:.0f}", "")


def compared(args: Namespace, predictor: Predictor, paths: list[Path], server: Any, address: str) -> None:
    """Images a second of several clients, and of one process."""
    files = [path.read_bytes() for path in paths]
    calls = {
        "Predictor.stream": lambda: sum(1 for _ in predictor.stream(paths)),
        f"HTTP, {CLIENTS} clients": lambda: many(address, files, CLIENTS),
    }
    turns = in_turn(calls, 3, clock=time.perf_counter)
    row = table("many images", "images/s", "ratio")
    base = statistics.median(turns["Predictor.stream"])
    for way, values in turns.items():
        spent = statistics.median(values)
        row(way, f"{len(files) / spent:.2f}", f"{base / spent:.2f}")


def grown(args: Namespace, predictor: Predictor, paths: list[Path], server: Any, address: str) -> None:
    """The server's memory while requests go on."""
    files = [path.read_bytes() for path in paths]
    row, sent = table("requests", "resident memory, MB"), 0
    step = max(args.requests // 10, 1)
    while sent < args.requests:
        row(sent, f"{resident(server):.0f}")
        many(address, [files[i % len(files)] for i in range(sent, sent + step)], CLIENTS)
        sent += step
    row(sent, f"{resident(server):.0f}")


def main() -> None:
    """Prints the three tables."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=15, help="calls of one image, each way")
    parser.add_argument("--only", nargs="+", choices=("one", "many", "memory"), help="these tables only")
    parser.add_argument("--size", type=int, nargs=2, default=[256, 320], metavar=("HEIGHT", "WIDTH"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_dataset(Path(name), style="cells", count=args.images, size=tuple(args.size), seed=5)
        paths = sorted(Path(name, "images").rglob("*.png"))
        predictor = Predictor(args.model, device=args.device)
        server, address = start(args.model, "--device", args.device)
        try:
            for part, call in {"one": one, "many": compared, "memory": grown}.items():
                if args.only is None or part in args.only:
                    call(args, predictor, paths, server, address)
                    print()
        finally:
            server.terminate()
            server.wait(30)
    print(f"{machine('maskconver', 'torch', 'starlette', 'uvicorn', where=f'{args.model} on {args.device}')}")


if __name__ == "__main__":
    main()
