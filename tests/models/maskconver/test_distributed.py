"""Two processes learn what one would learn from their joint batch."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from maskconver.models import create_model
from maskconver.models.batch import Batch
from maskconver.models.maskconver import MaskConver
from maskconver.models.maskconver.losses import LossConfig
from maskconver.models.maskconver.model import Maps
from tests.batches import batch_of, squares, table
from tests.losses import judged

CONFIGS = {
    "pixel": LossConfig(bce="pixel", dice="none"),
    "object": LossConfig(bce="object", dice="none", center_weight=0.0),
    "per_mask": LossConfig(mask_weight=0.0, center_weight=0.0),
    "center": LossConfig(mask_weight=0.0, dice="none"),
    "batch": LossConfig(mask_weight=0.0, dice="none", normalizer="batch"),
    "entry": LossConfig(bce="entry", normalizer="batch", dice="none", center_weight=0.0),
    "image": LossConfig(dice="image", mask_weight=0.0, center_weight=0.0),
}
# What the two processes get: unequal numbers of masks, one mask in all, none at all.
SPLITS = ["unequal", "one mask", "no mask"]


def images_of(split: str) -> list[tuple[np.ndarray, object]]:
    things = np.repeat(np.arange(1, 9, dtype=np.int32), 512).reshape(64, 64)
    void = (np.zeros((64, 64), np.int32), table())
    one = (np.where(np.arange(64) < 30, 5, 0)[None].repeat(64, 0).astype(np.int32), table((5, 1)))
    if split == "unequal":
        return [(things, table(*((n, n % 3) for n in range(1, 9)))), squares(), one, void]
    return [one, void, void, void] if split == "one mask" else [void] * 4


def small_model() -> MaskConver:
    torch.manual_seed(0)
    return create_model(
        "maskconver_mobile_256", num_classes=5, filters=8, low_level_filters=8, embedding_dim=8
    )


def gradients(batch: Batch, start: int, config: LossConfig) -> list[torch.Tensor]:
    """Gradients of the MLP's and the class embedding's weights, and of the maps of these images."""
    model = small_model()
    g = torch.Generator().manual_seed(7)
    maps = [torch.randn(4, c, 8, 8, generator=g) for c in (5, 8, 8)]
    scale = torch.ones(3, requires_grad=True)  # stands for parameters that every image's maps depend on
    heatmap, embedding, features = (m[start : start + len(batch)] * s for m, s in zip(maps, scale))
    part = Maps((heatmap,), (embedding,), features)
    terms = judged(model, part, batch, config)
    torch.stack(list(terms.values())).sum().backward()
    learnt = [*model.mlp.parameters(), *model.class_embedding.parameters(), scale]
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in learnt]


def worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    results = {}
    for split in SPLITS:
        batch = batch_of(images_of(split)[2 * rank : 2 * rank + 2])  # type: ignore[arg-type]
        for name, config in CONFIGS.items():
            averaged = gradients(batch, 2 * rank, config)
            for gradient in averaged:
                dist.all_reduce(gradient)
                gradient /= 2
            results[f"{split}/{name}"] = averaged
    if rank == 0:
        torch.save(results, Path(folder) / "gradients.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[torch.Tensor]]:
    folder = tmp_path_factory.mktemp("ddp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, str(folder)), nprocs=2)
    result: dict[str, list[torch.Tensor]] = torch.load(folder / "gradients.pt", weights_only=True)
    return result


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("split", SPLITS)
def test_averaged_gradients_equal_those_of_the_joint_batch(
    two_processes: dict[str, list[torch.Tensor]], split: str, name: str
) -> None:
    joint = gradients(batch_of(images_of(split)), 0, CONFIGS[name])  # type: ignore[arg-type]
    for mine, expected in zip(two_processes[f"{split}/{name}"], joint):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-7)
    if split == "unequal":
        assert any(g.any() for g in joint)
