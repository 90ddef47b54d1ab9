"""What `analyze` costs over `evaluate` on the same images, in processor time.

Run: .venv/bin/python benchmarks/analyze.py

Both run the network once an image and compare with the ground truth; analyze also finds the cause of every
mistake, varies two thresholds, and writes a page with the worst images. Images are generated cells; with
--data, those of a data set.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness import arguments, in_turn, machine, medians, table
from maskconver import Predictor
from maskconver.analysis.report import write_report
from maskconver.analysis.run import analyze, results
from maskconver.data.open import open_dataset
from maskconver.data.synth.write import write_dataset
from maskconver.inference.evaluation import evaluate


def main() -> None:
    """Prints the table."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", help="folder of a data set of the model's categories")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=24, help="generated images")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(args.data or name)
        if args.data is None:
            write_dataset(folder, style="cells", count=args.images, size=(256, 320), seed=5, split=args.split)
        data = open_dataset(folder, args.split)
        predictor = Predictor(args.model, device=args.device)

        def page() -> None:
            found = analyze(predictor, data, keep=24)
            worst = results(predictor, data, found.indices[:24], kept=found.kept)
            write_report(Path(name, "page.html"), found, data, worst, title="benchmark")

        calls = {
            "evaluate": lambda: evaluate(predictor, data),
            "analyze, without sweeps": lambda: analyze(predictor, data, sweeps=()),
            "analyze": lambda: analyze(predictor, data),
            "analyze, with its page": page,
        }
        times = medians(in_turn(calls, args.rounds))
        row = table(f"{len(data)} images", "s", "ratio")
        for way, spent in times.items():
            row(way, f"{spent:.1f}", f"{spent / times['evaluate']:.2f}")
    print(f"\n{machine('maskconver', 'torch', where=f'{args.model} on {args.device}')}")


if __name__ == "__main__":
    main()
