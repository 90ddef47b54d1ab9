"""Hours of work in minutes: memory, file handles and threads must stay flat.

    python benchmarks/soak.py [--minutes 30] [--steps 10000] [--only predict serve train]

`predict` segments generated and broken files in one process, again and again; `serve` answers good and bad
clients; `train` runs 10,000 steps at 64 px. Every second the memory, the open files and the threads of the
process are noted. The slope of the memory is a line fitted to the last two thirds; files and threads are
compared by the medians of their halves, since an open connection of a client is a file, too.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

MAX_SLOPE = 1.0  # megabytes a minute
PREDICT = """
import contextlib, io, random, shutil, sys, time
from pathlib import Path
from maskconver.cli.main import main
from maskconver.inference.runtime import open_runtime
from maskconver.inference import predictor
model, folder, out, seconds = sys.argv[1], Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])
runtime, end, rounds, codes = open_runtime(model), time.monotonic() + seconds, 0, set()
predictor.open_runtime = lambda *args, **more: runtime
files = sorted(folder.iterdir())
rng = random.Random(0)
while time.monotonic() < end:
    chosen = rng.sample(files, 4)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        codes.add(main(["predict", model, *map(str, chosen), "--out", out, "--overlay", "--labels"]))
    rounds += 1
    shutil.rmtree(out, ignore_errors=True)
print(rounds, sorted(codes))
"""


@dataclass
class Watch:
    """Samples of a process: seconds, megabytes, open files, threads."""

    pid: int
    rows: list[tuple[float, float, int, int]] = field(default_factory=list)

    def sample(self, seconds: float) -> bool:
        """Notes one; false when the process is gone."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
            files = len(list(Path(f"/proc/{self.pid}/fd").iterdir()))
        except OSError:
            return False
        found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "VmRSS" not in found:
            return False
        memory = int(found["VmRSS"].split()[0]) / 1024
        self.rows.append((seconds, memory, files, int(found["Threads"])))
        return True

    def verdict(self) -> dict[str, object]:
        """Slope and growth over the last two thirds."""
        rows = np.array(self.rows[len(self.rows) // 3 :], float)
        slope = np.polyfit(rows[:, 0] / 60, rows[:, 1], 1)[0] if len(rows) > 2 else float("nan")
        half = len(rows) // 2
        grown = [
            float(np.median(rows[half:, k]) - np.median(rows[:half, k])) if half else 0.0 for k in (2, 3)
        ]
        tenths = self.rows[:: max(len(self.rows) // 10, 1)]
        return {
            "minutes": round(self.rows[-1][0] / 60, 1),
            "MB": round(float(rows[:, 1].max())),
            "MB a minute": round(float(slope), 2),
            "MB, ten times": [round(row[1]) for row in tenths],
            "files, ten times": [row[2] for row in tenths],
            "more files": grown[0],
            "more threads": grown[1],
            "flat": bool(slope < MAX_SLOPE and max(grown) <= 2),
        }


def watched(process: subprocess.Popen[str], pid: int | None = None) -> Watch:
    """Samples a process until it ends."""
    watch, start = Watch(pid or process.pid), time.monotonic()
    while process.poll() is None:
        watch.sample(time.monotonic() - start)
        time.sleep(1)
    return watch


def files(folder: Path) -> None:
    """Generated images, and as many broken ones."""
    from PIL import Image

    from maskconver.data.synth.write import synthesize

    rng = random.Random(0)
    for k in range(30):
        suffix = (".png", ".jpg", ".tif", ".webp")[k % 4]
        path = folder / f"{k}{suffix}"
        Image.fromarray(synthesize("cells", (60 + 7 * k, 200), k).image).save(path)
        data = bytearray(path.read_bytes())
        for _ in range(rng.choice((1, 8, 40))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (folder / f"broken{k}{suffix}").write_bytes(data[: rng.choice((len(data), len(data) // 2))])


def predict(seconds: float, work: Path) -> dict[str, object]:
    """One process that segments sound and broken files."""
    (work / "files").mkdir()
    files(work / "files")
    argv = [sys.executable, "-c", PREDICT, "nuclei", str(work / "files"), str(work / "out"), str(seconds)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    watch = watched(process)
    said = process.stdout.read().strip() if process.stdout else ""
    return {
        **watch.verdict(),
        "done": f"{said.partition(' ')[0]} runs of 4 images",
        "ok": process.returncode == 0,
    }


def serve(seconds: float, work: Path) -> dict[str, object]:
    """A server with clients that behave well, send rubbish, hang up or dawdle."""
    (work / "images").mkdir()
    files(work / "images")
    argv = [sys.executable, "-m", "maskconver.cli", "serve", "nuclei", "--port", "0", "--timeout", "20"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline().split("//")[1].split()[0].rsplit(":", 1)[1])
    stop, counts, lock = (
        time.monotonic() + seconds,
        dict.fromkeys(("good", "refused", "late", "bad", "lost"), 0),
        threading.Lock(),
    )
    paths = sorted((work / "images").iterdir())

    def count(name: str) -> None:
        with lock:
            counts[name] += 1

    def client(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < stop:
            data, kind = rng.choice(paths).read_bytes(), rng.randrange(6)
            with suppress(OSError):
                if kind < 3:
                    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/segment", data)
                    request.add_header("Content-Type", "application/octet-stream")
                    try:
                        with urllib.request.urlopen(request, timeout=60) as answer:
                            answer.read()
                        count("good")
                    except urllib.error.HTTPError as error:
                        count(
                            {503: "refused", 504: "late"}.get(
                                error.code, "lost" if error.code >= 500 else "refused"
                            )
                        )
                    continue
                with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
                    head = (
                        f"POST /v1/segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n\r\n"
                    )
                    sent = head.encode()
                    rubbish = bytes(rng.randrange(256) for _ in range(500))
                    raw.sendall((sent + data[: len(data) // 2], rubbish, sent[:30])[kind - 3])
                    if kind == 3:
                        time.sleep(0.2)
                count("bad")

    threads = [threading.Thread(target=client, args=(k,)) for k in range(4)]
    watch, start = Watch(process.pid), time.monotonic()
    for thread in threads:
        thread.start()
    while any(t.is_alive() for t in threads) and watch.sample(time.monotonic() - start):
        time.sleep(1)
    for thread in threads:
        thread.join()
    alive = process.poll() is None
    process.terminate()
    process.wait(120)
    done = ", ".join(f"{n} {name}" for name, n in counts.items())
    return {**watch.verdict(), "done": f"clients: {done}", "ok": alive and not counts["lost"]}


def train(steps: int, work: Path) -> dict[str, object]:
    """One training with validations and checkpoints."""
    from maskconver.data.synth.write import write_dataset

    for split, count in (("train", 40), ("val", 4)):
        write_dataset(work / "data", "cells", count, size=(64, 64), split=split)
    argv = [
        *(
            sys.executable,
            "-m",
            "maskconver.cli",
            "train",
            f"--data={work / 'data'}",
            f"--out={work / 'run'}",
        ),
        *("--model.name=maskconver_mobile_dense_512", "--model.input.size=[64,64]", "--model.filters=16"),
        *("--model.embedding_dim=16", "--model.proposals=20", "--data.batch_size=2", "--data.workers=1"),
        *(
            f"--steps={steps}",
            f"--val_every={max(steps // 20, 1)}",
            f"--checkpoint_every={max(steps // 50, 1)}",
        ),
        *("--schedule.warmup=2", "--log_every=100", "--threads=1", "--device=cpu"),
    ]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, text=True)
    watch = watched(process)
    return {**watch.verdict(), "done": f"{steps} steps", "ok": process.returncode == 0}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30, help="of predict, and of serve")
    parser.add_argument("--steps", type=int, default=10_000, help="of training")
    parser.add_argument("--only", nargs="+", choices=("predict", "serve", "train"))
    args = parser.parse_args()
    good = True
    for name in args.only or ("predict", "serve", "train"):
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            result = train(args.steps, work) if name == "train" else globals()[name](60 * args.minutes, work)
        good &= bool(result["ok"] and result["flat"])
        print(json.dumps({"what": name, **result}), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
