"""Peak memory of a training step at 640 px by the number of segments an image.

Run: .venv/bin/python benchmarks/memory.py

Each row runs in a fresh process: forward, losses, backward and optimiser step, twice, on noise with a
generated annotation. What is read is the highest resident memory the process ever had.
"""

from __future__ import annotations

import torch

from harness import annotated, arguments, fresh, machine, peak, table
from maskconver.models import create_model
from maskconver.models.maskconver.losses import LossConfig, MaskConverCriterion


def measure(name: str, size: int, count: int, stride: int, segments: int) -> tuple[float, float]:
    """Peak memory of this process before and after two training steps, GB."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=133).train()
    optimizer = torch.optim.AdamW(model.parameters())
    batch = annotated(size, count, segments, 133)
    criterion = MaskConverCriterion(model, LossConfig(mask_loss_stride=stride))
    before = peak()
    for _ in range(2):
        optimizer.zero_grad()
        terms = criterion(model, model(batch.images), batch)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    return before, peak()


def main() -> None:
    """Prints a table."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="maskconver_mobile_640")
    parser.add_argument("--size", type=int, default=640, help="network input, pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--stride", type=int, default=LossConfig().mask_loss_stride, help="of the mask loss")
    parser.add_argument("--segments", type=int, nargs="+", default=[10, 100, 400])
    args = parser.parse_args()
    print(f"`{args.model}`, {args.size} px, batch {args.batch}, mask loss at stride {args.stride}:\n")
    row = table("segments per image", "peak of the process, GB", "ratio", "of which the steps, GB", "ratio")
    first: tuple[float, float] | None = None
    for segments in args.segments:
        before, most = fresh(measure, args.model, args.size, args.batch, args.stride, segments)
        first = first or (most, most - before)
        step = most - before
        row(segments, f"{most:.2f}", f"{most / first[0]:.2f}", f"{step:.2f}", f"{step / first[1]:.2f}")
    print(f"\n{machine('torch', 'numpy')}")


if __name__ == "__main__":
    main()
