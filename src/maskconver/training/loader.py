"""Training as a stream of examples that depends on seed and position only; validation in order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from ..core.categories import Categories, differences
from ..core.config import InputConfig
from ..core.preprocess import prepare
from ..core.processes import leave_signals
from ..core.proposals import Geometry
from ..core.segments import SegmentTable
from ..data.dataset import PanopticDataset, Sample
from ..data.label_folder import LabelFolder
from ..data.layout import DataPaths
from ..data.open import open_dataset
from ..data.semantic import SemanticView
from ..errors import ConfigError, DataError
from ..models.batch import Batch
from .augment.example import AugmentConfig, Example, train_example
from .partners import Partners
from .targets import TargetConfig


@dataclass
class DataConfig:
    """Which data, and how it is augmented and loaded.

    Attributes:
        data: folder of the data set; not needed if the files of each split are given.
        train_split: name of the split to train on.
        val_split: name of the split to validate on.
        train: files of the training split, if they are not in the folder.
        val: files of the validation split, if they are not in the folder.
        batch_size: images per step and device; `auto` takes as many as fit in memory.
        workers: number of loader processes; 0 loads in the training process.
        semantic: use panoptic data for semantic training: `all` turns every class into stuff, `things` keeps
            the thing classes and one background. Label folders need no switch.
        val_images: validate on the first N images only; all if None.
        balance: a key of `images[]` (e.g. `image_type`) whose values are drawn more evenly than they occur;
            `classes` draws images more often the rarer their rarest class is (repeat factors, arXiv
            1908.03195, section 4.2, without their threshold).
        balance_power: 1 draws every value equally often, 0 as often as it occurs.
        balance_area: large images are drawn more often, in proportion to this power of their annotated area.
            For models of mode native, where a large image holds many crops; 0 ignores size.
        augment: augmentation.
        targets: how the annotation becomes training targets.
    """

    data: str = ""
    train_split: str = "train"
    val_split: str = "val"
    train: DataPaths = field(default_factory=DataPaths)
    val: DataPaths = field(default_factory=DataPaths)
    semantic: Literal["off", "all", "things"] = "off"
    batch_size: int | Literal["auto"] = 8
    workers: int = 1
    val_images: int | None = None
    balance: str | None = None
    balance_power: float = 0.5
    balance_area: float = 0.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)

    @property
    def images(self) -> int:
        """`batch_size`, once it is a number."""
        if self.batch_size == "auto":
            raise ConfigError("`data.batch_size=auto` is not a number yet: training chooses one")
        return self.batch_size


class PositionSampler(Sampler[tuple[int, int]]):
    """An endless shuffled stream of (position, index); the index at a position depends on the seed alone.

    So a run that resumes at position p sees exactly what an unbroken run would, whatever the number of
    workers.

    Args:
        weights: (N,) probability of each image, or None for each once an epoch.
        size: N.
        length: positions in all.
        seed: of the stream.
        rank, world: this process takes every `world`-th position.

    Attributes:
        start, stop: the positions that are given; of a run that goes on, those that are left. The length is
            still that of the whole run, whose batches Lightning counts.
    """

    def __init__(
        self,
        size: int,
        length: int,
        seed: int,
        *,
        weights: NDArray[np.float64] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.size, self.length, self.seed, self.weights = size, length, seed, weights
        self.rank, self.world, self.start, self.stop = rank, world, 0, length

    def __len__(self) -> int:
        return self.length // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, np.zeros(0, np.int64)
        for position in range(self.start + self.rank, self.stop, self.world):
            if position // self.size != epoch:
                epoch = position // self.size
                rng = np.random.default_rng((self.seed, epoch))
                order = rng.permutation(self.size) if self.weights is None else self._weighted(rng)
            yield position, int(order[position % self.size])

    def _weighted(self, rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.choice(self.size, self.size, p=self.weights)


class TrainDataset(Dataset[Example]):
    """Examples by (position, index); the position seeds the variation."""

    def __init__(
        self,
        dataset: PanopticDataset | First,
        config: DataConfig,
        input_config: InputConfig,
        *,
        categories: Categories,
        seed: int,
    ) -> None:
        self.dataset, self.config, self.input = dataset, config, input_config
        self.is_thing, self.seed = categories.is_thing, seed
        self.partners = Partners(dataset, categories, config.augment.copy_paste.classes)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        position, index = key
        rng = np.random.default_rng((self.seed, 1, position))
        augment, partner = self.config.augment, None
        if augment.copy_paste.probability and rng.random() < augment.copy_paste.probability:
            partner = self.partners.draw(rng)
        return train_example(
            self.dataset[index],
            self.input,
            augment,
            targets=self.config.targets,
            is_thing=self.is_thing,
            rng=rng,
            partner=partner,
        )


@dataclass(slots=True)
class ValidationItem:
    """One validation image: network input C×h×w, how it lies on the image, sample, and whether it counts."""

    canvas: NDArray[np.float32]
    geometry: Geometry
    sample: Sample
    counted: bool = True


class ValidationDataset(Dataset[ValidationItem]):
    """Images as inference sees them, with their annotation.

    From the last one on it begins anew, with items that do not count: so all processes get equally many.
    """

    def __init__(self, dataset: PanopticDataset | First, input_config: InputConfig) -> None:
        self.dataset, self.input = dataset, input_config

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> ValidationItem:
        counted, index = index < len(self), index % len(self)
        sample = self.dataset[index]
        sample.segments = self.dataset.segments(index)  # those without a pixel too: they count as missed
        canvas, geometry = prepare(sample.image, self.input)
        return ValidationItem(canvas, geometry, sample, counted)


def collate(examples: Sequence[Example]) -> Batch:
    """Examples of one size to a batch; ragged rows become flat columns with a batch index."""
    targets = [e.targets for e in examples]

    def flat(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([getattr(t, name) for t in targets]))

    return Batch(
        torch.from_numpy(np.stack([e.image for e in examples])),
        torch.from_numpy(np.stack([t.valid for t in targets])),
        torch.from_numpy(np.stack([t.regions for t in targets])),
        torch.repeat_interleave(torch.arange(len(targets)), torch.tensor([len(t.labels) for t in targets])),
        flat("labels"),
        flat("region"),
        flat("boxes"),
        flat("centers"),
        flat("keep"),
        tuple(e.image_id for e in examples),
    )


class First(Sequence[Sample]):
    """The first n of a data set."""

    def __init__(self, dataset: PanopticDataset, n: int) -> None:
        self.dataset, self.n = dataset, min(n, len(dataset))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Any) -> Any:
        chosen = range(self.n)[index]  # raises IndexError beyond n, which ends an iteration
        return [self.dataset[i] for i in chosen] if isinstance(index, slice) else self.dataset[chosen]

    def segments(self, index: int) -> SegmentTable:
        """As `PanopticDataset.segments`."""
        return self.dataset.segments(index)

    @property
    def segment_counts(self) -> NDArray[np.int64]:
        """As `PanopticDataset.segment_counts`."""
        return self.dataset.segment_counts[: self.n]


class SegmentationData(pl.LightningDataModule):
    """Training and validation loaders of one data set.

    Args:
        config: which data and how.
        input_config: the model's input.
        samples: examples the training stream has in all (steps × accumulation × batch × processes).
        seed: of order and variation.
        overfit: train and validate on the first so many training images, unvaried.
    """

    def __init__(
        self,
        config: DataConfig,
        input_config: InputConfig,
        samples: int,
        *,
        seed: int = 0,
        overfit: int | None = None,
    ) -> None:
        super().__init__()
        if not config.data and config.train == DataPaths():
            raise DataError(
                "no data set given: `data.data=DIR`, or `data.train.images`, `data.train.panoptic_json`, "
                "`data.train.panoptic_pngs` (or .labels, .classes) and the same of data.val"
            )
        if input_config.bits == 16 and config.augment.policy:
            raise ConfigError("autoaugment works on images of 8 bits: leave it out, or set `input.bits=8`")
        self.config, self.input, self.samples, self.seed = config, input_config, samples, seed
        own, train = _open(config, config.train_split, config.train, input_config)
        self.categories = train.categories
        if overfit:
            self.train: PanopticDataset | First = First(train, overfit)
            self.val: PanopticDataset | First = First(train, overfit)
            config.augment = AugmentConfig.none()
        else:
            _, val = _open(config, config.val_split, config.val, input_config, own)
            self.train = train
            self.val = First(val, config.val_images) if config.val_images else val
        if not len(self.train):
            raise DataError(f"{train.path}: no annotated image in {config.train_split}; nothing to train on")
        self.start, self.stop = 0, samples

    def diameter(self, images: int = 2000) -> float | None:
        """Median diameter of the training things in pixels, of up to so many images; None where none count.

        That of a circle of the same area. Things of label folders do not count: one segment may be many.
        """
        base = self.train.dataset if isinstance(self.train, First) else self.train
        if isinstance(base, LabelFolder) or not self.categories.is_thing.any():
            return None
        chosen = range(0, len(self.train), -(-len(self.train) // images))
        tables = [self.train.segments(i) for i in chosen]
        own = [t.areas[self.categories.is_thing[t.labels] & ~t.crowd & (t.areas > 0)] for t in tables]
        areas = np.concatenate(own)
        return round(2 * math.sqrt(float(np.median(areas)) / math.pi), 2) if len(areas) else None

    def go_on(self, seen: int, samples: int) -> None:
        """Has the training stream begin at a position, and give so many examples from there."""
        self.start, self.stop = seen, seen + samples

    def train_dataloader(self) -> DataLoader[Example]:
        """Batches from position `start` on."""
        rank, world = self._process()
        sampler = PositionSampler(
            len(self.train), self.samples, self.seed, weights=self._weights(), rank=rank, world=world
        )
        sampler.start, sampler.stop = self.start, self.stop
        dataset = TrainDataset(
            self.train, self.config, self.input, categories=self.categories, seed=self.seed
        )
        return DataLoader(
            dataset,
            self.config.images,
            sampler=sampler,
            num_workers=self.config.workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            drop_last=True,
            persistent_workers=self.config.workers > 0,
            worker_init_fn=leave_signals,
        )

    def val_dataloader(self) -> DataLoader[ValidationItem]:
        """One image per batch, in order; each process takes its share."""
        rank, world = self._process()
        share = range(rank, -(-len(self.val) // world) * world, world)
        return DataLoader(
            Subset(ValidationDataset(self.val, self.input), share),
            batch_size=None,
            num_workers=min(self.config.workers, 1),
            collate_fn=_same,  # type: ignore[arg-type]  # without batches it gets the item itself
            worker_init_fn=leave_signals,
        )

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _weights(self) -> NDArray[np.float64] | None:
        key, config = self.config.balance, self.config
        if (key is None and not config.balance_area) or isinstance(self.train, First):
            return None
        n = len(self.train)
        weights = np.ones(n)
        if key == "classes":
            held = [np.unique(self.train.segments(i).labels) for i in range(n)]
            count = np.bincount(np.concatenate(held), minlength=len(self.categories))
            weights = np.array([1 / count[one].min() if len(one) else 1 / n for one in held])
        elif key is not None:
            values = [str(self.train.info(i).get(key)) for i in range(n)]
            if set(values) == {"None"}:
                raise DataError(f'no image of {config.data} has the key "{key}" that balance names')
            counts = Counter(values)
            weights = np.array([1 / counts[v] for v in values])
        weights = weights**config.balance_power
        if config.balance_area:
            areas = np.array([self.train.segments(i).areas.sum() for i in range(n)], np.float64)
            weights *= np.maximum(areas, 1) ** config.balance_area
        return weights / weights.sum()


def _open(
    config: DataConfig,
    split: str,
    paths: DataPaths,
    input_config: InputConfig,
    like: PanopticDataset | None = None,
) -> tuple[PanopticDataset, PanopticDataset]:
    """A split, with the labels of another one, and how the model sees it."""
    dataset = open_dataset(config.data or None, split, paths)
    dataset.read_for(input_config)
    if like is not None:
        found = differences(like.categories, dataset.categories, config.train_split, split)
        if found:
            text = "; ".join(text for _, text in found[:3])
            what = f"the categories of {config.train_split} and {split} differ: {text}"
            raise DataError(what, where=str(dataset.path), fix=f"those of training are in {like.path}")
        dataset.use_categories(like.categories)
    return dataset, dataset if config.semantic == "off" else SemanticView(dataset, config.semantic)


def _same(item: ValidationItem) -> ValidationItem:
    return item
