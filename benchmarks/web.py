"""What a browser costs: WebAssembly against native ONNX Runtime, and the merge in JavaScript.

The network runs in node, with the files that pages load (`make web` fetches them), and in Python, in turn, on
the same inputs; the merge on the same proposals. Times are median processor times after some rounds in which
the JavaScript is compiled. With --browser the network runs in headless Chromium, which allows threads, and
times are the least wall times. Needs node, or Chromium and playwright.
"""

from __future__ import annotations

import base64
import json
import math
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from dataclasses import asdict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import onnxruntime

import maskconver as mc
from harness import arguments, machine, table
from maskconver.core.files import WEIGHTS
from maskconver.core.preprocess import prepare
from maskconver.core.proposals import Proposals
from maskconver.merge import postprocess
from maskconver.serve import site

PROGRAM = """
import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
const [runtime, modules, file, threads] = process.argv.slice(2);
const ort = await import(runtime + "/ort.wasm.js"), { postprocess } = await import(modules + "/merge.js");
ort.env.wasm.wasmBinary = gunzipSync(readFileSync(runtime + "/ort.wasm.wasm.gz"));
ort.env.wasm.numThreads = Number(threads);
const session = await ort.InferenceSession.create(readFileSync(file));
const floats = (text) => new Float32Array(Uint8Array.from(Buffer.from(text, "base64")).buffer);
const now = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e3;
};
const timed = async (call) => {
  const start = now(), answer = await call();
  return [now() - start, answer];
};
for await (const line of createInterface({ input: process.stdin })) {
  const { image, dims, geometry, config, things } = JSON.parse(line);
  const images = new ort.Tensor("float32", floats(image), dims);
  const [network, found] = await timed(() => session.run({ images }));
  const maskSize = found.mask_logits.dims.slice(2), labels = Int32Array.from(found.labels.data, Number);
  const one = { scores: found.scores.data, labels, masks: found.mask_logits.data, maskSize, geometry };
  let [merge, answer] = [Infinity, null];
  for (let i = 0; i < 10; i++) {
    const [spent, found] = await timed(() => postprocess(one, config, things));
    [merge, answer] = [Math.min(merge, spent), found];
  }
  console.log(JSON.stringify({ network, merge, segments: answer.labels.length }));
}
"""


PAGE = """async (threads) => {
  const ort = await import("/ort.wasm.js"), packed = (await fetch("/ort.wasm.wasm.gz")).body;
  const unpacked = packed.pipeThrough(new DecompressionStream("gzip"));
  ort.env.wasm.wasmBinary = await new Response(unpacked).arrayBuffer();
  ort.env.wasm.numThreads = threads;
  const session = await ort.InferenceSession.create("/model.onnx");
  globalThis.timed = async ({ image, dims }) => {
    const bytes = Uint8Array.from(atob(image), (c) => c.charCodeAt(0));
    const images = new ort.Tensor("float32", new Float32Array(bytes.buffer), dims), start = performance.now();
    await session.run({ images });
    return performance.now() - start;
  };
}"""


class Node:
    """The page's network and merge, in node."""

    def __init__(self, model: Path, threads: int) -> None:
        folder = Path(tempfile.mkdtemp())
        (folder / "run.mjs").write_text(PROGRAM)
        modules = site.RUNTIME.with_name("browser")
        for source in (modules, site.RUNTIME):
            shutil.copytree(source, folder / source.name)
        (folder / "package.json").write_text('{"type": "module"}')
        places = [str(folder / name) for name in (site.RUNTIME.name, "browser")]
        words = ["node", str(folder / "run.mjs"), *places, str(model), str(threads)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, **given: Any) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def stop(self) -> None:
        self.process.kill()


class Chromium:
    """The page's network in a headless browser, where it can have threads; the merge is not timed."""

    def __init__(self, model: Path, threads: int) -> None:
        from playwright.sync_api import sync_playwright

        folder = Path(tempfile.mkdtemp())
        for name, content in site.runtime_files().items():
            (folder / name).write_bytes(content)
        shutil.copy(model, folder / "model.onnx")
        (folder / "index.html").write_text("<!doctype html>")
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Isolated, directory=str(folder)))
        Thread(target=server.serve_forever, daemon=True).start()
        self.process = sync_playwright().start()
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = self.process.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        self.page = browser.new_page()
        self.page.goto(f"http://127.0.0.1:{server.server_port}/")
        self.page.evaluate(PAGE, threads)

    def __call__(self, **given: Any) -> dict[str, Any]:
        return {"network": self.page.evaluate("given => timed(given)", given), "merge": math.nan}

    def stop(self) -> None:
        self.process.stop()


class Isolated(SimpleHTTPRequestHandler):
    """Files with the headers without which there are no threads."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def measured(model: Path, side: int, threads: int, rounds: int, browser: bool) -> dict[str, float]:
    """Milliseconds of network and merge, natively and in JavaScript, for one input of a size."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    predictor, node = mc.Predictor(model), (Chromium if browser else Node)(model, threads)
    own = predictor.runtime.input
    pixels = int(side / own.scale) if own.mode == "native" else side
    image = mc.data.synthesize("cells", size=(pixels, pixels), seed=7).image
    canvas, geometry = prepare(image, own)
    given = {
        "image": base64.b64encode(canvas.tobytes()).decode(),
        "dims": [1, *canvas.shape],
        "geometry": {"image": geometry.image_size, "canvas": geometry.canvas_size, "scale": geometry.scale},
        "config": asdict(predictor.postprocess),
        "things": predictor.categories.is_thing.tolist(),
    }
    clock = time.perf_counter if browser else time.process_time
    times: dict[str, list[float]] = {name: [] for name in ("native", "wasm", "python", "javascript")}
    for round_ in range(rounds + 3):  # the first ones warm up
        start = clock()
        found = session.run(["scores", "labels", "mask_logits"], {"images": canvas[None]})
        network, merge = clock() - start, math.inf
        one = Proposals(found[0], found[1], found[2], geometry=(geometry,))
        for _ in range(10):
            start = clock()
            result = postprocess(one, predictor.postprocess, predictor.categories)[0]
            merge = min(merge, clock() - start)
        answer = node(**given)
        assert abs(answer.get("segments", len(result)) - len(result)) <= 1
        values = 1000 * network, answer["network"], 1000 * merge, answer["merge"]
        for name, value in zip(times, values):
            if round_ >= 3:
                times[name].append(value)
    node.stop()
    middle = min if browser else statistics.median  # wall time: others may have used the cores
    return {name: middle(values) for name, values in times.items()}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, default=WEIGHTS / "nuclei.onnx")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 384, 512], help="of the network input")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="with --browser")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--browser", action="store_true", help="headless Chromium instead of node")
    args = parser.parse_args()
    print(machine("onnxruntime"))
    head = ("native, ms", "WASM, ms", "ratio", "merge in Python, ms", "in JavaScript, ms", "ratio")
    row = table("input", "threads", *head)
    for threads in args.threads:
        for side in args.sides:
            ms = measured(args.model, side, threads, args.rounds, args.browser)
            pairs = (ms["native"], ms["wasm"]), (ms["python"], ms["javascript"])
            row(f"{side}×{side}", threads, *(f"{v:.2f}" for a, b in pairs for v in (a, b, b / a)))


if __name__ == "__main__":
    main()
