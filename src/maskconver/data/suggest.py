"""`suggest_recipe`: a recipe from the figures of a data set, with the reason for each choice."""

from __future__ import annotations

from typing import Any

import numpy as np

from .stats import Stats

STEPS = ((200, 2000), (1000, 4000), (5000, 12_000), (20_000, 40_000), (1 << 62, 100_000))
"""Up to so many images, so many steps of 4 images."""
SMALL, CROWDED = 8.0, 0.01  # px of the network input; share of objects
LONGEST, LARGEST, STRETCHED, MOST = 640, 2048, 0.45, 400
CELL = 64.0  # px of the image
CROPS = ((128, 256), (256, 384))
"""Where 90 % of the things are narrower than the first, crops of the second, in px."""


def suggest_recipe(stats: Stats) -> tuple[dict[str, Any], list[str]]:
    """A recipe for a first training run on a data set, from a bundled model, on one machine.

    Example:
        >>> import maskconver as mc
        >>> recipe, reasons = mc.data.suggest_recipe(mc.data.dataset_stats("my_data"))
        >>> recipe["steps"], recipe["init_from"]
        (2000, 'nuclei')

    Args:
        stats: of its training split.

    Returns:
        The recipe as `maskconver train --config` takes it, without the folder of the data; and one plain
        sentence for each choice.
    """
    height, width = (float(v) for v in np.median(stats.sizes, 0))
    longest = float(np.percentile(stats.sizes.max(1), 95))
    varied = longest > 1.5 * max(height, width)
    side = min(_up(longest, 64), LONGEST)
    fit = _up(height * side / max(height, width)), _up(width * side / max(height, width))
    reasons: list[str] = []
    shown = None if varied else fit
    things = stats.object_sides(shown)
    small = float(np.percentile(things, 10)) if len(things) else 0.0
    lost = stats.collisions(8, shown)[1]
    proposals = max(min(stats.proposals, MOST), 20)
    tiny = len(things) > 0 and (small < SMALL or lost > CROWDED or proposals > 150)
    own = stats.object_sides()
    cells = int(stats.categories.is_thing.sum()) == 1 and stats.channels <= 3 and stats.grey
    cells = cells and len(own) > 0 and float(np.percentile(own, 90)) < CELL
    model, loss, targets = _network(stats, cells, proposals, reasons)
    data: dict[str, Any] = {"batch_size": 4, "workers": 1}
    augment: dict[str, Any] = {"scale": [0.6, 1.6], "scale_law": "log"}
    form: dict[str, Any] = {"size": [*fit]}
    if tiny and longest <= LARGEST and (varied or longest > LONGEST):
        form = {"mode": "native", "size": [512, 512]}
        why = "sizes differ" if varied else "small things would get smaller"
        reasons.append(f"images keep their size (mostly up to {longest:.0f} px), because {why}")
    else:
        reasons.append(
            f"network input {fit[0]}×{fit[1]}: the median image, its longer side at most {LONGEST}"
        )
    wide = float(np.percentile(own if "mode" in form else things, 90)) if len(things) else 0.0
    crop = next((crop for limit, crop in CROPS if wide < limit), None)
    if crop and max(form["size"]) > crop:
        augment["crop"] = [crop, crop]
        why = f"90 % of the things are at most {wide:.0f} px wide" if len(things) else "no class is a thing"
        reasons.append(f"crops of {crop}×{crop} px: {why}")
    reasons.append(
        f"{model['proposals']} proposals: the fullest image asks for {stats.objects_per_image.max()}"
    )
    _add_pixels(stats, model, form, augment, reasons)
    data |= {"augment": augment, "targets": targets}
    if proposals > 100 and len(things):
        targets["max_segments"] = proposals
    steps = next(steps for most, steps in STEPS if stats.images <= most)
    reasons.append(f"{steps} steps of 4 images for {stats.images} images")
    recipe: dict[str, Any] = {"model": {**model, "input": form}, "data": data, "loss": loss}
    optim = {"name": "adamw", "lr": 0.003, "base_batch": 4, "backbone_lr": 0.3, "weight_decay": 0.02}
    recipe |= {
        "optim": {**optim, "clip_norm": 5.0},
        "schedule": {"kind": "cosine", "warmup": 50},
        "init_from": "nuclei" if cells else "facade",
        "init_modules": "backbone,decoder",
        "steps": steps,
        "val_every": max(steps // 5, 100),
        "checkpoint_every": 100,
        "ema": 0.997,
    }
    why = (
        "one kind of small thing in grey images"
        if cells
        else "its backbone and decoder were trained on photographs"
    )
    reasons.append(f"starts from the bundled model {recipe['init_from']}: {why}")
    return recipe, reasons


def _network(
    stats: Stats, cells: bool, proposals: int, reasons: list[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Model, losses and targets: those of the recipe `nuclei`, `camvid` or `start`, whichever fits."""
    model: dict[str, Any] = {
        "name": "maskconver_mobile_dense_512",
        "bn_momentum": 0.1,
        "proposals": proposals,
    }
    loss: dict[str, Any] = {"bce": "object", "mask_weight": 1.0, "dice_weight": 2.0}
    if cells:
        model |= {
            "head_kernel": 3,
            "postprocess": {"score_threshold": 0.4, "overlap_threshold": 0.5, "maskness": 1.0},
        }
        reasons.append("the network and losses of the recipe nuclei: one kind of small thing in grey images")
        return model, {**loss, "mask_loss_stride": 2, "positive": 0.3, "samples": 2}, {"min_iou": 0.3}
    if not stats.categories.is_thing.any():
        merge = {"score_threshold": 0.0, "overlap_threshold": 0.0, "mask_threshold": 0.0, "nms_iou": 1.0}
        merge |= {"min_area": 0.0, "class_exponent": 0.0}  # every pixel gets its most probable class
        model |= {"stuff": "semantic", "position": False, "head_kernel": 3, "postprocess": merge}
        reasons.append("a semantic head alone, as no class is a thing")
        return model, {"semantic_weight": 1.0, "mask_loss_stride": 2, "semantic_balance": 0.5}, {}
    merge = {"score_threshold": 0.4, "overlap_threshold": 0.5, "mask_threshold": 0.4}
    model["postprocess"] = merge
    loss |= {"center": "quality", "embedding_at": "random", "mask_loss_stride": 4}
    if not stats.categories.is_thing.all():
        model |= {"stuff": "semantic", "agreement": 0.6}
        loss["semantic_weight"] = 2.0
    reasons.append("the network and losses of the recipe start")
    return model, loss, {"gaussian": "size"}


def _add_pixels(
    stats: Stats, model: dict[str, Any], form: dict[str, Any], augment: dict[str, Any], reasons: list[str]
) -> None:
    """Channels, bits, normalisation and colour augmentation."""
    if stats.channels not in (1, 3):
        model["in_channels"] = stats.channels
        form |= {"mean": [*stats.mean], "std": [max(v, 1e-3) for v in stats.std]}
        reasons.append(f"{stats.channels} channels, normalised by the means and deviations of this data")
    stretched = stats.span < STRETCHED
    if stretched:
        form["stretch"] = "percentile"
        reasons.append(f"images are stretched: they use {100 * stats.span:.0f} % of the range of values")
    if stats.bits > 8:
        form["bits"] = 16
        reasons.append("images keep 16 bits")
    if stats.channels in (1, 3):
        color = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02}
        augment["color"] = {"brightness": 0.15, "contrast": 0.2, "gamma": 0.3} if stats.grey else color


def _up(length: float, step: int = 32) -> int:
    """The next multiple, at least two of them."""
    return max(-(-round(length) // step) * step, 2 * step)


def recipe_text(recipe: dict[str, Any], reasons: list[str], path: str) -> str:
    """The recipe as YAML, its reasons as comments above it."""
    import yaml

    head = [f"# Suggested for {path}", *(f"# - {reason}" for reason in reasons)]
    return "\n".join(head) + "\n" + yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None)
