"""How long `import maskconver` and `maskconver --help` take, beside Python that does nothing.

Run: .venv/bin/python benchmarks/startup.py
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version

RUNS = 15
ROWS = {
    "python -c pass": ["-c", "pass"],
    "import maskconver": ["-c", "import maskconver"],
    "maskconver --help": ["-m", "maskconver.cli", "--help"],
    "maskconver data check --help": ["-m", "maskconver.cli", "data", "check", "--help"],
    "maskconver predict --help": ["-m", "maskconver.cli", "predict", "--help"],
    "import maskconver.predictor": ["-c", "import maskconver.predictor"],
    "import torch": ["-c", "import torch"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one fresh Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Every row once to warm the file cache, then all rows in turn, `RUNS` times; prints medians."""
    for arguments in ROWS.values():
        seconds(arguments)
    times: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(RUNS):
        for name, arguments in ROWS.items():
            times[name].append(seconds(arguments))
    bare = statistics.median(times["python -c pass"])
    print(f"| fresh process | median of {RUNS}, s | over bare Python, s |\n|---|---|---|")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"| `{name}` | {median:.3f} | {median - bare:.3f} |")
    packages = ", ".join(f"{p} {version(p)}" for p in ("maskconver", "lazy-loader", "jsonargparse", "torch"))
    print(f"\nPython {platform.python_version()} on {platform.machine()} {platform.system()}; {packages}")


if __name__ == "__main__":
    main()
