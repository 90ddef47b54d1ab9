"""StarDist on the same nuclei as the bundled model: trained, then measured in the same way.

Run, in an environment of its own (StarDist needs TensorFlow):
     pip install maskconver stardist tf_keras tensorflow-cpu
     python benchmarks/stardist_nuclei.py --data DIR --minutes 30 --by image_type

StarDist's own settings, but for four: 32 rays on a grid of 2 pixels, as in its examples; three channels, as
the images are in colour; patches of 128 pixels, of which a short training sees more than of 256; a learning
rate that falls along a cosine, as in our recipes. Every twelfth training
image is set aside to choose thresholds. Minutes are of the processor, on one thread.
"""

from __future__ import annotations

import math
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import arguments, instances_table, machine
from maskconver.core.segments import lookup
from maskconver.data.dataset import Sample
from maskconver.data.open import open_dataset

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
STEPS = 100  # of an epoch
RATE = 3e-4  # StarDist's


def normalized(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """H×W×3 float32: each channel from its percentiles 1 and 99.8 to 0 and 1, as StarDist does it."""
    from csbdeep.utils import normalize

    return normalize(image.astype(np.float32), 1, 99.8, axis=(0, 1))


def pair(sample: Sample, is_thing: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """An image, and the number of the nucleus at each pixel, 0 for none."""
    table = sample.segments
    numbers = np.where(is_thing[table.labels], np.arange(1, len(table.ids) + 1), 0)
    return normalized(sample.image), lookup(sample.ids, table.ids, numbers, 0).astype(np.int32)


def augmented(
    x: NDArray[np.float32], y: NDArray[np.int32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Quarter turns, flips and a change of brightness, as in StarDist's examples."""
    turns = rng.integers(4)
    x, y = np.rot90(x, turns), np.rot90(y, turns)
    if rng.random() < 0.5:
        x, y = x[:, ::-1], y[:, ::-1]
    x = x * rng.uniform(0.6, 2) + rng.uniform(-0.2, 0.2)
    x = x + 0.02 * rng.uniform(0, 1) * rng.normal(0, 1, x.shape)
    return x.astype(np.float32), y


def trained(pairs: list[tuple[Any, Any]], held: list[tuple[Any, Any]], args: Any) -> Any:
    """A StarDist model after so many minutes of processor time, with its thresholds."""
    import tensorflow as tf
    from stardist.models import Config2D, StarDist2D
    from tf_keras.callbacks import Callback

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.random.set_seed(args.seed)
    start, limit = time.process_time(), 60 * args.minutes

    class Schedule(Callback):  # type: ignore[misc]
        """A cosine over the processor time, and the end."""

        steps = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            part = min((time.process_time() - start) / limit, 1.0)
            rate = RATE * min(0.5 * (1 + math.cos(math.pi * part)), (self.steps + 1) / 50)
            self.model.optimizer.learning_rate.assign(rate)
            self.steps += 1
            if part >= 1:
                self.model.stop_training = True

    config = Config2D(
        n_rays=32,
        grid=(2, 2),
        n_channel_in=3,
        train_learning_rate=RATE,
        train_batch_size=4,
        train_patch_size=(args.patch, args.patch),
        train_reduce_lr=None,
        train_tensorboard=False,
        train_steps_per_epoch=STEPS,
    )
    model = StarDist2D(config, name="nuclei", basedir=str(args.out))
    model.prepare_for_training()
    schedule = Schedule()
    model.callbacks.append(schedule)
    images, masks = zip(*pairs, strict=True)
    aside = tuple(map(list, zip(*held, strict=True)))
    augmenter = partial(augmented, rng=np.random.default_rng(args.seed))
    model.train(images, masks, validation_data=aside, augmenter=augmenter, seed=args.seed, epochs=10_000)
    model.optimize_thresholds(*aside)
    print(f"{schedule.steps} steps of 4 patches in {(time.process_time() - start) / 60:.1f} minutes")
    print(f"{model.keras_model.count_params()} parameters, thresholds {model.thresholds}")
    return model


def main() -> None:
    """Trains and prints the table."""
    parser = arguments(__doc__)
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--split", default="val", help="which split is measured")
    parser.add_argument("--minutes", type=float, default=30, help="of processor time for training")
    parser.add_argument("--patch", type=int, default=128, help="side of a training patch in pixels")
    parser.add_argument("--by", help="a key of images[] to group by, e.g. image_type")
    parser.add_argument("--out", type=Path, default=Path("runs/stardist"), help="folder of the model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = open_dataset(args.data, "train")
    pairs = [pair(data[index], data.categories.is_thing) for index in range(len(data))]
    held = pairs[::12]
    del pairs[::12]
    model = trained(pairs, held, args)

    data, pixels, spent = open_dataset(args.data, args.split), 0, 0.0

    def nuclei(image: NDArray[np.uint8]) -> NDArray[np.int32]:
        nonlocal pixels, spent
        start = time.process_time()
        ids = model.predict_instances(normalized(image))[0].astype(np.int32)
        spent += time.process_time() - start
        pixels += ids.size
        return ids

    instances_table(data, args.by, nuclei)
    print(f"{1e6 * spent / pixels:.2f} s of processor time per megapixel")
    print(machine("stardist", "tensorflow-cpu", "tf_keras"))


if __name__ == "__main__":
    main()
