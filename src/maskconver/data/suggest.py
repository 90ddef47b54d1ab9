"""`suggest_recipe`: a recipe from the figures of a data set, with the reason for each choice."""

from __future__ import annotations

from typing import Any

import numpy as np

from .stats import Stats

STEPS = ((200, 1500), (1000, 2500), (5000, 8000), (20_000, 25_000), (1 << 62, 60_000))
"""Up to so many images, so many steps of 8 images."""
SMALL, CROWDED = 8.0, 0.01  # px of the network input; share of objects
LONGEST, LARGEST, STRETCHED, MOST = 640, 2048, 0.45, 400
POSTPROCESS = {"min_area": 0.0, "nms_iou": 0.5, "reassign": True}


def suggest_recipe(stats: Stats) -> tuple[dict[str, Any], list[str]]:
    """A recipe for a first training run on a data set, from scratch on one machine.

    Example:
        >>> import maskconver as mc
        >>> recipe, reasons = mc.data.suggest_recipe(mc.data.dataset_stats("my_data"))
        >>> recipe["steps"]
        1500

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
    reasons = []
    shown = None if varied else fit
    things = stats.object_sides(shown)
    small = float(np.percentile(things, 10)) if len(things) else 0.0
    lost = stats.collisions(8, shown)[1]
    proposals = max(min(stats.proposals, MOST), 20)
    model: dict[str, Any] = {"proposals": proposals}
    data: dict[str, Any] = {"batch_size": 8, "workers": 2}
    augment: dict[str, Any] = {"scale": [0.5, 1.6], "scale_law": "log"}
    targets: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    dense = not len(things) or small < SMALL or lost > CROWDED or proposals > 150
    form: dict[str, Any] = {"size": [*fit]}
    if not len(things):
        model = {"name": "maskconver_mobile_dense_512", "filters": 64, "embedding_dim": 64, "head_kernel": 3}
        model |= {"position": False, "proposals": max(proposals, 50), "peak_kernel": 15, "bn_momentum": 0.03}
        model["postprocess"] = {
            "score_threshold": 0.02,
            "overlap_threshold": 0.0,
            "mask_threshold": 0.0,
            **POSTPROCESS,
        }
        targets = {"islands": 3, "min_iou": 0.3}
        loss = {"center_weight": 2.0, "bce": "object", "mask_weight": 1.0, "dice_weight": 2.0}
        loss["mask_loss_stride"] = 4
        reasons.append("no class is a thing: the small semantic network at stride 4")
    elif dense:
        model["name"] = "maskconver_mobile_dense_512"
        loss = {"bce": "object", "mask_weight": 1.0, "dice_weight": 2.0, "mask_loss_stride": 2}
        why = f"10 % of the things are narrower than {small:.1f} px"
        if small >= SMALL:
            why = f"{100 * lost:.1f} % of the objects share a cell of stride 8 with one of their class"
            why = (
                f"images ask for up to {stats.objects_per_image.max()} proposals" if lost <= CROWDED else why
            )
        reasons.append(f"heads at stride 4, because {why}")
    else:
        model |= {"name": "maskconver_mobile_384", "bn_momentum": 0.03}
        model["postprocess"] = {"score_threshold": 0.2, "mask_threshold": 0.5, **POSTPROCESS}
        targets = {"islands": 1}
        reasons.append(f"heads at stride 8: 90 % of the things are at least {small:.0f} px wide")
    own = stats.object_sides()
    if dense and len(things) and longest <= LARGEST and (varied or longest > LONGEST):
        form = {"mode": "native", "size": [512, 512]}
        why = "sizes differ" if varied else "small things would get smaller"
        reasons.append(f"images keep their size (mostly up to {longest:.0f} px), because {why}")
    else:
        reasons.append(
            f"network input {fit[0]}×{fit[1]}: the median image, its longer side at most {LONGEST}"
        )
    if dense and len(things) and float(np.percentile(own, 90)) < 128 and max(form["size"]) > 256:
        augment |= {"crop": [256, 256]}
        reasons.append("crops of 256×256 px: 90 % of the things are less than 128 px wide")
    reasons.append(
        f"{model['proposals']} proposals: the fullest image asks for {stats.objects_per_image.max()}"
    )
    _add_pixels(stats, model, form, augment, reasons)
    data |= {"augment": augment} | ({"targets": targets} if targets else {})
    if proposals > 100 and len(things):
        data.setdefault("targets", {})["max_segments"] = proposals
    steps = next(steps for most, steps in STEPS if stats.images <= most)
    reasons.append(f"{steps} steps of 8 images for {stats.images} images")
    recipe: dict[str, Any] = {"model": {"name": model.pop("name"), **model, "input": form}, "data": data}
    if loss:
        recipe["loss"] = loss
    recipe |= {
        "optim": {"name": "adamw", "lr": 0.002 if dense else 0.001, "weight_decay": 0.02, "clip_norm": 5.0},
        "schedule": {"kind": "cosine", "warmup": 200},
        "steps": steps,
        "val_every": max(steps // 5, 100),
        "checkpoint_every": 100,
        "ema": 0.998,
    }
    if dense and stats.categories.is_thing.sum() == 1 and stats.channels <= 3 and stats.grey:
        recipe |= {"init_from": "nuclei", "init_modules": "backbone,decoder"}
        reasons.append("starts from the bundled model nuclei: one kind of small thing in grey images")
    return recipe, reasons


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
