"""Images in tiles: the same objects, pixel for pixel, whatever the tiles."""

import errno
import os
import tempfile
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskconver.core.categories import Categories, Category
from maskconver.core.config import InputConfig, PostprocessConfig
from maskconver.core.proposals import Proposals
from maskconver.core.segmentation import Segmentation
from maskconver.core.segments import let_go
from maskconver.errors import ConfigError, MaskconverError
from maskconver.inference.exported import CanvasMap
from maskconver.inference.mosaic import Mosaic, Tiling, id_map
from maskconver.inference.predictor import Predictor
from maskconver.merge import postprocess

CATEGORIES = Categories(
    [
        Category(3, "cell", True, (220, 60, 60)),
        Category(5, "road", False, (40, 40, 40)),
        Category(8, "ground", False, (40, 90, 40)),
    ]
)


class ColourRuntime:
    """Sees an object in every colour: red and green number it, blue is its label."""

    def __init__(self, stride: int = 1, **options) -> None:
        own = {"mode": "native", "size": (64, 64), "multiple": 16, "mean": (0.0,) * 3, "std": (1.0,) * 3}
        self.input = InputConfig(**(own | options))
        self.postprocess = PostprocessConfig(min_area=0.0, overlap_threshold=0.0, mask_threshold=0.5)
        self.categories, self.stride, self.shapes = CATEGORIES, stride, []

    def __call__(self, images: np.ndarray) -> Proposals:
        self.shapes.append(images.shape)
        s = self.stride
        colours = np.rint(images * 255).astype(int)[:, :, s // 2 :: s, s // 2 :: s]
        code = colours[:, 0] * 65536 + colours[:, 1] * 256 + colours[:, 2]
        kinds = np.unique(code)
        kinds = kinds[kinds != 0]
        if not len(kinds):
            return Proposals(
                np.zeros((len(images), 1), np.float32),
                np.zeros((len(images), 1), np.int64),
                np.full((len(images), 1, *code.shape[1:]), -9, np.float32),
            )
        masks = np.where(code[:, None] == kinds[:, None, None], 9, -9).astype(np.float32)
        scores = (0.5 + kinds % 9973 / 25000).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        labels = (kinds % 256 - 1).astype(np.int64)
        many = (len(images), 1)
        return Proposals(np.tile(scores[order], many), np.tile(labels[order], many), masks[:, order])


def painted(seed: int, height: int, width: int, *, objects: int = 14, largest: int = 20) -> np.ndarray:
    """Boxes, ellipses and rings of one colour each, on two kinds of ground."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 2] = 3
    image[:, width // 3 : width // 2] = 0, 0, 2
    image[: height // 8, : width // 8] = 0  # void
    for number in range(1, objects + 1):
        h, w = rng.integers(1, largest + 1, 2)
        y, x = rng.integers(0, max(height - h, 1)), rng.integers(0, max(width - w, 1))
        part = image[y : y + h, x : x + w]
        ys, xs = np.mgrid[-1 : 1 : part.shape[0] * 1j, -1 : 1 : part.shape[1] * 1j]
        shape = [ys < 9, ys**2 + xs**2 <= 1.02, np.maximum(abs(ys), abs(xs)) > 0.5][number % 3]
        part[shape] = number // 256, number % 256, 1
    return image


def same(left: Segmentation, right: Segmentation) -> bool:
    """Equal pixels, and equal rows."""
    return bool((left.ids == right.ids).all()) and left.segments == right.segments


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(30, 160),
    st.integers(30, 160),
    st.sampled_from([64, 72, 80, 96, 112, 128]),
    st.integers(22, 40),
    st.integers(1, 3),
)
def test_small_objects_do_not_depend_on_the_tiles(seed, height, width, tile, overlap, batch):
    image = painted(seed, height, width)
    whole = Predictor(ColourRuntime(), tile=None)(image)
    tiled = Predictor(ColourRuntime(), tile=tile, overlap=overlap, batch_size=batch)(image)
    assert same(whole, tiled)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([64, 80, 112]), st.integers(24, 48))
def test_objects_larger_than_a_tile_are_joined(seed, tile, overlap):
    """Boxes, ellipses and frames beside one another, each many tiles large."""
    rng = np.random.default_rng(seed)
    image = np.zeros((200, 180, 3), np.uint8)
    image[:, :, 2] = 3
    y, x = rng.integers(50, 140, 2)
    for number, (rows, columns) in enumerate(
        ((slice(0, y), slice(0, x)), (slice(0, y), slice(x, 180)), (slice(y, 200), slice(0, 180)))
    ):
        part = image[rows, columns]
        ys, xs = np.mgrid[-1 : 1 : part.shape[0] * 1j, -1 : 1 : part.shape[1] * 1j]
        shape = [ys < 9, ys**2 + xs**2 <= 1, np.maximum(abs(ys), abs(xs)) > 0.6][rng.integers(3)]
        part[shape] = 0, number + 1, 1
    whole = Predictor(ColourRuntime(), tile=None)(image)
    assert same(Predictor(ColourRuntime(), tile=tile, overlap=overlap)(image), whole)


def test_a_frame_around_the_whole_image_is_one_object():
    image = np.zeros((300, 300, 3), np.uint8)
    image[10:290, 10:290] = 0, 7, 1
    image[40:260, 40:260] = 0, 0, 3
    tiled = Predictor(ColourRuntime(), tile=96, overlap=40)(image)
    assert same(tiled, Predictor(ColourRuntime(), tile=None)(image))
    assert [s.category for s in tiled] == [s.category for s in sorted(tiled, key=lambda s: -s.score)]


def test_a_coarse_network_gives_the_same_objects_in_tiles():
    """Windows begin at multiples of the network's own, so that its cells lie alike."""
    image = np.kron(painted(3, 60, 70), np.ones((4, 4, 1), np.uint8))
    for tile, overlap in ((128, 96), (160, 100), (144, 90)):
        runtime = ColourRuntime(4)
        assert same(
            Predictor(runtime, tile=tile, overlap=overlap)(image),
            Predictor(ColourRuntime(4), tile=None)(image),
        )
        assert {shape[2:] for shape in runtime.shapes} == {(tile, tile)}


def test_every_tile_has_one_size_and_sees_the_overlap():
    tiling = Tiling.of((1000, 700), 320, 80, align=32)
    cover = np.zeros(tiling.size, int)
    for tile in tiling:
        (ys, xs), (core_ys, core_xs) = tile.window, tile.core
        cover[tile.core] += 1
        assert ys.start % 32 == xs.start % 32 == 0 and ys.stop - ys.start in (320, 1000 - ys.start)
        for window, core, length in ((ys, core_ys, 1000), (xs, core_xs, 700)):
            assert window.start == 0 or core.start - window.start >= 40
            assert window.stop == length or window.stop - core.stop >= 40
    assert (cover == 1).all() and len(tiling) == len(list(tiling))


@pytest.mark.parametrize("length", [321, 400, 560, 561, 800, 1000, 5000])
@pytest.mark.parametrize(("overlap", "align"), [(80, 1), (80, 32), (100, 16), (0, 8)])
def test_even_tiles_are_as_many_and_no_larger_than_they_must_be(length: int, overlap: int, align: int):
    full = Tiling.of((length, 300), 320, overlap, align=align)
    even = Tiling.of((length, 300), 320, overlap, align=align, even=True)
    side = even.rows[0][1]
    assert len(even) == len(full) and side <= 320 and even.columns == full.columns
    for (_, stop, _, end), (start, _, begin, _) in zip(even.rows, even.rows[1:]):
        assert stop - start >= overlap and start % align == 0 and begin == end
    assert even.rows[-1][1] == length
    smaller = side - align
    assert smaller < overlap + align or len(Tiling.of((length, 300), smaller, overlap, align=align)) > len(
        full
    )


def test_an_image_slightly_larger_than_a_tile_takes_small_ones():
    """As the 520×696 pixels of some microscopes in tiles of 512: half the work."""
    runtime, image = ColourRuntime(), painted(3, 65, 87)
    assert same(Predictor(runtime, tile=64, overlap=16)(image), Predictor(ColourRuntime(), tile=None)(image))
    assert [shape[2:] for shape in runtime.shapes] == [(48, 64)] * 4  # 41 and 52 pixels, in cells of 16


def test_tiles_of_a_narrow_image_are_narrow():
    runtime, image = ColourRuntime(), painted(3, 4, 500, largest=3)
    assert same(Predictor(runtime, tile=64)(image), Predictor(ColourRuntime(), tile=None)(image))
    assert {shape[2:] for shape in runtime.shapes} == {(16, 64)}


def test_tiles_are_automatic_for_models_that_keep_the_size_of_images():
    image = np.zeros((1100, 40, 3), np.uint8)
    native, fit = ColourRuntime(), ColourRuntime(mode="fit")
    Predictor(native)(image)
    assert [shape[2:] for shape in native.shapes] == [(688, 48)] * 2  # (1100 + 256) / 2, in cells of 16
    Predictor(fit)(image)
    assert [shape[2:] for shape in fit.shapes] == [(64, 64)]
    small = ColourRuntime()
    Predictor(small)(image[:1024])
    assert [shape[2:] for shape in small.shapes] == [(1024, 48)]
    twice = ColourRuntime(scale=2.0)
    Predictor(twice)(image[:520])
    assert [shape[2:] for shape in twice.shapes] == [(656, 80)] * 2
    with pytest.raises(ConfigError, match="a tile shows 10 pixels"):
        Predictor(ColourRuntime(), scale=100)


def test_a_model_of_mode_fit_sees_tiles_as_images():
    runtime = ColourRuntime(mode="fit")
    image = painted(1, 300, 140)
    result = Predictor(runtime, tile=128)(image)
    assert {shape[2:] for shape in runtime.shapes} == {(64, 64)} and result.ids.shape == (300, 140)


def test_scale_comes_on_top_of_the_models_own():
    runtime = ColourRuntime(scale=0.5)
    Predictor(runtime, tile=None, scale=2.0)(np.zeros((64, 96, 3), np.uint8))
    assert runtime.shapes == [(1, 3, 64, 96)] and runtime.input.scale == 0.5


def test_a_diameter_brings_objects_to_the_size_of_the_training_objects():
    runtime = ColourRuntime(scale=0.5, diameter=20.0)
    Predictor(runtime, tile=None, diameter=10)(np.zeros((64, 96, 3), np.uint8))
    assert runtime.shapes == [(1, 3, 64, 96)]
    with pytest.raises(ConfigError, match="leave out `scale`"):
        Predictor(runtime, diameter=10, scale=2.0)
    with pytest.raises(ConfigError, match="`diameter=0`"):
        Predictor(runtime, diameter=0)
    with pytest.raises(ConfigError, match=r"does not know the size.*give `scale`"):
        Predictor(ColourRuntime(), diameter=10)
    with pytest.raises(ConfigError, match="Change the side of `tile`"):
        Predictor(ColourRuntime(mode="fit", diameter=10.0), diameter=10)


def test_constant_tiles_are_skipped_where_asked():
    image = np.zeros((64, 400, 3), np.uint8)
    image[10:30, 300:320] = 0, 9, 1
    runtime = ColourRuntime()
    result = Predictor(runtime, tile=64, skip_empty=True)(image)
    assert sum(shape[0] for shape in runtime.shapes) == 2 and [s.area for s in result] == [400]


def test_smallest_areas_are_those_of_the_training_crop():
    image = np.zeros((64, 400, 3), np.uint8)
    image[10:15, 300:310], image[10:14, 50:60] = (0, 9, 1), (0, 8, 1)
    for tile in (64, 96, 128):
        result = Predictor(ColourRuntime(), tile=tile, min_area=45 / 64**2)(image)
        assert [s.area for s in result] == [50]


def test_the_answer_keeps_the_image_and_the_side_that_was_asked():
    image = painted(1, 100, 180)
    result = Predictor(ColourRuntime(), tile=64, output_side=90)(image)
    assert result.ids.shape == (50, 90) and result.image.shape == (50, 90, 3)
    assert (Predictor(ColourRuntime(), tile=64)(image).image == image).all()


def test_a_stretched_image_has_the_same_levels_in_every_tile():
    seen = []

    class Bright(ColourRuntime):
        def __call__(self, images):
            seen.append(float(images.max()))
            return super().__call__(0 * images)

    image = np.zeros((64, 256, 3), np.uint8)
    image[:, :100], image[:, 100:] = 20, 40
    Predictor(Bright(stretch="percentile", percentiles=(0, 100)), tile=64)(image)
    assert min(seen) == 0 and max(seen) == 1 and len({round(v, 3) for v in seen}) == 2


def test_streams_mix_images_in_tiles_with_others():
    images = [painted(n, 60, 60 + 50 * (n % 2)) for n in range(4)]
    steps = []
    predictor = Predictor(ColourRuntime(), tile=64, batch_size=3)
    predictor.on_tile = lambda done, count: steps.append((done, count))
    for (image, answer), single in zip(predictor.stream(images), images):
        assert image is single and same(answer, Predictor(ColourRuntime(), tile=None)(single))
    assert steps == [(2, 2)] * 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": 8}, "`tile=8` is smaller"),
        ({"tile": 0}, "not a side"),
        ({"tile": 64, "overlap": 64}, "`overlap=64`"),
        ({"tile": 64, "overlap": -1}, "`overlap=-1`"),
        ({"tile": None, "overlap": 8}, "`overlap`"),
        ({"tile": "huge"}, "not available"),
        ({"tile": 64, "draft_jpeg": True}, "draft_jpeg"),
        ({"scale": 0}, "`scale=0`"),
    ],
)
def test_tiles_that_cannot_be_are_refused_before_the_first_image(options, words):
    with pytest.raises(ConfigError, match=words):
        Predictor(ColourRuntime(), **options)


def test_more_than_a_million_tiles_are_refused():
    with pytest.raises(ConfigError, match="more than 1000000"):
        Tiling.of((40_000, 40_000), 64, 32)
    with pytest.raises(ConfigError, match="`scale` is for models of mode native"):
        Predictor(ColourRuntime(mode="fit"), scale=2.0)


def test_proposals_of_tiles_are_no_one_set():
    image = np.zeros((90, 90, 3), np.uint8)
    with pytest.raises(ConfigError, match="leave out `tile`"):
        Predictor(ColourRuntime(), tile=64).proposals(image)


def test_what_two_tiles_see_twice_is_given_once_and_what_none_claims_is_given():
    """Tiles that disagree by a few pixels about where an object lies."""
    tiling = Tiling.of((64, 112), 64, 16)
    first, second = list(tiling)
    border = first.core[1].stop
    for offsets in ((-1, 1), (1, -1)):  # both think it theirs; both think it the other's
        mosaic = Mosaic(tiling.size, 16, CATEGORIES)
        for tile, offset in zip((first, second), offsets):
            ids = np.zeros(tiling.size, int)
            ids[20:30, border - 5 + offset : border + 5 + offset] = 1
            mosaic.add(Segmentation.from_ids(ids[tile.window], CATEGORIES, labels=[0]), tile)
        assert [s.area for s in mosaic.segmentation()] == [100]


def test_a_full_disk_is_told_in_one_line(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("maskconver.inference.mosaic.MEMORY_BYTES", 100)
    assert id_map((30, 40)).sum() == 0 and isinstance(id_map((30, 40)), np.memmap)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(MaskconverError, match=f"in {tempfile.gettempdir()}.*TMPDIR"):
        id_map((30, 40))


def test_a_large_id_map_takes_no_memory_for_what_is_done(monkeypatch):
    """The map lies in a file; its pages are let go of row after row, and its values stay."""
    monkeypatch.setattr("maskconver.inference.mosaic.MEMORY_BYTES", 100)
    image = painted(9, 200, 170)
    kept = []
    monkeypatch.setattr("maskconver.inference.mosaic.let_go", lambda ids: kept.append(let_go(ids)))
    tiled = Predictor(ColourRuntime(), tile=64, overlap=24)(image)
    assert same(tiled, Predictor(ColourRuntime(), tile=None)(image)) and len(kept) >= 5


class PanopticFile(ColourRuntime):
    """A file of a fixed size that gives maps, not proposals."""

    def __init__(self) -> None:
        super().__init__()
        self.file = types.SimpleNamespace(output="panoptic", size=(64, 64), multiple=16)

    def __call__(self, images):
        assert images.shape[2:] == (64, 64)
        (answer,) = postprocess(super().__call__(images), self.postprocess, CATEGORIES)
        rows = np.array([[s.id, s.label, s.area] for s in answer] + [[0, -1, 0]], np.int32)
        return [CanvasMap(answer.ids, rows, np.float32([*(s.score for s in answer), 0]))]


def test_a_file_of_a_fixed_size_and_a_scale_show_objects_at_that_scale_or_refuse():
    image = painted(5, 150, 90)
    file = PanopticFile()
    tiled = Predictor(file, tile=32, scale=2.0)(image)
    assert {shape[2:] for shape in file.shapes} == {(64, 64)} and tiled.ids.shape == (150, 90)
    with pytest.raises(ConfigError, match=r"`tile=64` at a scale of 2 is larger.*at most 32"):
        Predictor(PanopticFile(), tile=64, scale=2.0)


def test_a_file_of_a_fixed_size_takes_images_of_any_size_in_tiles():
    image = painted(5, 150, 90)
    for part in (image, image[:40]):
        whole = Predictor(ColourRuntime(), tile=None)(part)
        assert same(Predictor(PanopticFile(), overlap=24)(part), whole)
    small = image[:40, :30]
    assert same(Predictor(PanopticFile())(small), Predictor(ColourRuntime(), tile=None)(small))
