"""The LightningModule: one training step, one validation step, nothing about files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ConfigError, MaskconverError
from ..inference.evaluation import Figures
from ..merge import postprocess
from ..models.base import SegmentationModel
from ..models.batch import Batch
from ..models.layers import use_onednn
from .config import TrainConfig
from .loader import ValidationItem
from .optim import create_optimizer, learning_rate, scaled_lr


class NonFiniteLoss(MaskconverError):
    """A loss term became NaN or infinite."""


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """The modules of these names, without gradients and in evaluation mode from now on.

    Args:
        model: changed in place.
        patterns: names of modules, or shell patterns of them.

    Raises:
        ConfigError: one of them names no module.
    """
    found = []
    for pattern in patterns:
        own = [module for name, module in model.named_modules() if name and fnmatchcase(name, pattern)]
        if not own:
            parts = ", ".join(name for name, _ in model.named_children())
            raise ConfigError(
                f'`freeze`: the model has no module "{pattern}"; it has {parts} and their parts'
            )
        found += own
    for module in found:
        module.requires_grad_(False).eval()
    return found


class SegmentationTask(pl.LightningModule):
    """Trains a model of any family and measures PQ and mIoU on validation images at their own size.

    Args:
        model: with categories; changed by training.
        config: the run; its `loss` is of the model's family.

    Attributes:
        still: names of batch norms that keep their statistics; kept in checkpoints.
    """

    def __init__(self, model: SegmentationModel, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        targets = config.data.targets
        self.criterion = model.family.criterion(
            model, config.loss, min_iou=targets.min_iou, gaussian=targets.gaussian
        )
        self.still: list[str] = []
        learning = [p for p in model.parameters() if p.requires_grad]
        names = [name.strip() for name in config.freeze.split(",")] if config.freeze else []
        self.frozen = freeze(model, names)
        if not any(p.requires_grad for p in model.parameters()):
            raise ConfigError(
                "`freeze` names the whole model, so nothing is left to learn; name fewer modules"
            )
        self._later = [p for p in learning if not p.requires_grad] if config.freeze_steps else []
        assert model.categories is not None
        self.figures = Figures(model.categories)
        self.headline = "pq" if model.categories.is_thing.any() else "miou"
        self.last_checkpoint = "none yet"
        self.began = 0, 0  # step and images seen until then

    def train(self, mode: bool = True) -> SegmentationTask:
        """As in `nn.Module`, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in (*self.frozen, *map(self.model.get_submodule, self.still)):
            module.eval()
        return self

    def keep_still(self, names: list[str]) -> None:
        """Sets `still`: these batch norms use the statistics they have from now on."""
        self.still = names
        self.train()

    def optimizer(self, peak: float) -> torch.optim.Optimizer:
        """The run's optimiser, also of what learns later: without a gradient it is passed over."""
        for parameter in self._later:
            parameter.requires_grad_(True)
        optimizer = create_optimizer(self, self.config.optim, peak)
        for parameter in self._later if self.frozen else ():
            parameter.requires_grad_(False)
        return optimizer

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        if self.frozen and 0 < self.config.freeze_steps <= self.global_step:
            self.frozen = []
            for parameter in self._later:
                parameter.requires_grad_(True)
            self.train()

    def configure_optimizers(self) -> Any:
        config = self.config
        peak = scaled_lr(config.optim, config.step_images)
        optimizer = self.optimizer(peak)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(step, config.steps, peak, config.schedule) / peak
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        use_onednn(self)

    def on_train_start(self) -> None:
        """Options of the optimiser are this run's, also where a checkpoint of other ones was restored."""
        fresh = self.optimizer(scaled_lr(self.config.optim, self.config.step_images))
        scheduler: Any = self.trainer.lr_scheduler_configs[0].scheduler
        groups = self.trainer.optimizers[0].param_groups
        for i, (group, new) in enumerate(zip(groups, fresh.param_groups, strict=True)):
            scheduler.base_lrs[i] = new["lr"]
            group |= {k: v for k, v in new.items() if k != "params"} | {"initial_lr": new["lr"]}
            group["lr"] = new["lr"] * scheduler.lr_lambdas[i](scheduler.last_epoch)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        config, images = self.config, batch.images
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        # What is drawn in a step depends on the step alone, so that a resumed run draws the same.
        position = self.global_step * config.accumulate + batch_index % config.accumulate
        seed = hash((config.seed, position, self.global_rank))
        torch.manual_seed(seed)  # for the network: stochastic depth and dropout
        generator = torch.Generator(images.device).manual_seed(seed)  # for the losses
        criterion: Any = self.criterion
        watching = hasattr(criterion, "measures") and (self.global_step + 1) % config.log_every == 0
        if hasattr(criterion, "measures"):
            criterion.watching = watching  # only in the steps that are logged: it takes time
        terms = criterion(self.model, self.model(images), batch, generator=generator)
        total = torch.stack(list(terms.values())).sum()
        means = self._means(terms)
        if not math.isfinite(sum(means.values())):
            self._refuse(terms, batch)
        self.log_dict({f"train/{k}": v for k, v in means.items()}, prog_bar=True, batch_size=len(batch))
        if watching:
            measures = {f"train/{k}": v for k, v in criterion.measures.items()}
            self.log_dict(measures, batch_size=len(batch))
        self.log("train/total", sum(means.values()), batch_size=len(batch))
        self.log("train/dropped", batch.dropped.float(), batch_size=len(batch))
        return total

    def _means(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """The loss terms of the joint batch; so all processes see the same, and stop at the same step."""
        values = torch.stack(list(terms.values())).detach()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(values)
            values /= dist.get_world_size()
        return dict(zip(terms, values.tolist()))

    def _refuse(self, terms: dict[str, Tensor], batch: Batch) -> None:
        bad = ", ".join(f"{k} = {v.item()}" for k, v in terms.items() if not math.isfinite(v.item()))
        bad = bad or "in another process"
        raise NonFiniteLoss(
            f"step {self.global_step}: the loss is not finite ({bad}) on images {list(batch.image_ids)}; "
            f"last good checkpoint: {self.last_checkpoint}. A lower "
            "`optim.lr` or `optim.clip_norm=1` often helps"
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device, non_blocking=True) if isinstance(batch, Batch) else batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert self.model.categories is not None
        checkpoint["categories"] = self.model.categories.to_json()
        checkpoint["still"] = self.still
        step, seen = self.began  # in images, as the next run may have another number of processes
        checkpoint["seen"] = seen + (checkpoint["global_step"] - step) * self.config.step_images

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.keep_still(checkpoint.get("still", []))
        # Whole steps of this run, whose batches may be of another size: a step that was broken off between
        # its batches begins anew.
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            surplus = counts["ready"] - checkpoint["global_step"] * self.config.accumulate
            counts |= {name: count - surplus for name, count in counts.items()}

    def on_validation_epoch_start(self) -> None:
        assert self.model.categories is not None
        self.figures = Figures(self.model.categories)

    def validation_step(self, item: ValidationItem, batch_index: int) -> Any:
        canvas = torch.from_numpy(item.canvas)[None].to(self.device)
        if self.config.channels_last:
            canvas = canvas.contiguous(memory_format=torch.channels_last)
        proposals = self.model.predict(canvas).numpy()
        proposals.geometry = (item.geometry,)
        assert self.model.categories is not None
        result = postprocess(proposals, self.model.postprocess, self.model.categories)[0]
        sample = item.sample
        if not item.counted:
            return None
        return self.figures.add_image(result, sample.ids, sample.segments, image_id=sample.image_id)[0]

    def on_validation_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            for metric in (self.figures.pq, self.figures.miou):
                gathered = self.all_gather(torch.from_numpy(metric.state).to(self.device))
                assert isinstance(gathered, Tensor)
                metric.reset()
                metric.merge_state(gathered.sum(0).cpu().numpy())
        result = self.figures.pq.compute()
        for name, group in (("pq", result.all), ("pq_things", result.things), ("pq_stuff", result.stuff)):
            self.log(f"val/{name}", group.pq, prog_bar=True)
        for name in ("sq", "rq"):
            self.log(f"val/{name}", getattr(result.all, name))
            self.log(f"val/{name}_things", getattr(result.things, name))
        self.log("val/miou", self.figures.miou.compute().miou, prog_bar=True)
