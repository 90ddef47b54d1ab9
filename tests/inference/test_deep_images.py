"""Images of 16 bits: whole, in tiles, from a data set and on the server the network sees the same values."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from maskconver.analysis.run import analyze
from maskconver.core.segmentation import Segmentation
from maskconver.data.open import open_dataset
from maskconver.errors import ConfigError, ImageError
from maskconver.inference.predictor import Predictor
from maskconver.io.images import read_image
from maskconver.io.pixels import ImageWarning, to_bits
from maskconver.io.results import panoptic_writer
from maskconver.io.windows import TiffWindows, open_windows
from maskconver.serve.session import Session
from tests.fakes import CATEGORIES, FakeRuntime

RAMP = np.tile(np.arange(128, dtype=np.uint16)[None, :, None] * 32, (128, 1, 3))  # of 12 bits


class Watching(FakeRuntime):
    """Remembers the network inputs it was called with."""

    def __init__(self, **options) -> None:
        super().__init__("native", (64, 64), 1.0)
        self.input, self.seen = replace(self.input, bits=16, **options), []

    def __call__(self, images: np.ndarray):
        self.seen.append(images.copy())
        return super().__call__(images)


@pytest.mark.parametrize("options", [{"white_level": 4095.0}, {"stretch": "percentile"}])
def test_tiles_see_what_the_whole_image_shows(options) -> None:
    whole, tiled = Watching(**options), Watching(**options)
    Predictor(whole, tile=None)(RAMP)
    Predictor(tiled, tile=64, overlap=0)(RAMP)
    assert np.allclose(tiled.seen[0][0], whole.seen[0][0, :, :64, :64])
    assert np.allclose(tiled.seen[-1][0], whole.seen[0][0, :, 64:, 64:])


def test_a_file_read_by_windows_keeps_its_bits(tmp_path, monkeypatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", RAMP, photometric="rgb", tile=(64, 64))
    monkeypatch.setattr("maskconver.inference.predictor.WINDOWED", 1)
    runtime = Watching(white_level=4095.0)
    Predictor(runtime, tile=64, overlap=0)(tmp_path / "a.tif")
    assert len(np.unique(runtime.seen[0])) == 64


def test_a_file_read_by_windows_that_looks_black_is_told_once(tmp_path, monkeypatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", RAMP, photometric="rgb", tile=(64, 64))
    monkeypatch.setattr("maskconver.inference.predictor.WINDOWED", 1)
    with pytest.warns(ImageWarning, match="no value above 4064") as told:
        Predictor(FakeRuntime("native"), tile=64, overlap=0)(tmp_path / "a.tif")
    assert len(told) == 1


def test_the_white_level_is_not_applied_again_to_what_a_data_set_has_read() -> None:
    whole, read = Watching(white_level=4095.0), Watching(white_level=4095.0)
    Predictor(whole, tile=None)(RAMP)
    Predictor(read, tile=None).for_dataset()(to_bits(RAMP, 16, white_level=4095))
    assert np.array_equal(whole.seen[0], read.seen[0])


def test_the_image_in_an_answer_of_another_size_keeps_its_bits() -> None:
    answer = Predictor(Watching(), tile=None, output_side=32)(np.full((64, 64, 3), 30000, np.uint16))
    assert answer.image.dtype == np.uint16 and (answer.image == 30000).all()
    assert answer.brightness().max() == pytest.approx(255 * 30000 / 65535)


def test_the_server_reads_as_the_predictor_does(tmp_path) -> None:
    runtime = Watching(white_level=4095.0)
    runtime.file = SimpleNamespace(size=(160, 160), output="proposals", multiple=16)
    predictor = Predictor(runtime, tile=None)
    path = tmp_path / "a.png"
    Image.fromarray(RAMP[..., 0]).save(path)
    predictor(path)
    session = Session(predictor)
    _, canvas, _ = session._read(path.read_bytes())
    session.close()
    assert np.array_equal(canvas, runtime.seen[0][0])


def test_scores_of_all_masks_and_tiles_exclude_each_other() -> None:
    predictor = Predictor(FakeRuntime("native"), tile=64)
    with pytest.raises(ConfigError, match="tile"):
        predictor.answering(semantic=True)
    predictor.postprocess = replace(predictor.postprocess, rule="kmax")
    assert predictor.dense_from == "panoptic"


def test_a_white_level_of_zero_is_refused_and_not_passed_over() -> None:
    with pytest.raises(ImageError, match="white_level"):
        Predictor(Watching(white_level=4095.0), white_level=0)


@pytest.mark.parametrize(("kind", "channels"), [("miniswhite", 1), ("separated", 4)])
def test_colours_that_need_a_conversion_are_not_read_by_windows(tmp_path, kind, channels) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = np.zeros((64, 64, channels), np.uint8).squeeze()
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=kind, tile=(32, 32))
    assert open_windows(tmp_path / "a.tif", 1) is None
    assert (read_image(tmp_path / "a.tif") == 255).all()


def test_a_file_read_by_windows_is_closed_and_known_beforehand(tmp_path, monkeypatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", RAMP, photometric="rgb", tile=(64, 64))
    monkeypatch.setattr("maskconver.inference.predictor.WINDOWED", 1)
    opened, close = [], TiffWindows.close
    monkeypatch.setattr(TiffWindows, "close", lambda self: (opened.append(self), close(self))[1])
    predictor = Predictor(Watching(), tile=64)
    assert predictor.reads_in_parts(tmp_path / "a.tif") and len(opened) == 1
    predictor(tmp_path / "a.tif")
    assert len(opened) == 2
    assert [a.ids.shape for _, a in predictor.stream([tmp_path / "a.tif"])] == [(128, 128)]
    assert len(opened) == 3
    assert not Predictor(Watching(), tile=None).reads_in_parts(tmp_path / "a.tif")


@pytest.mark.parametrize("sweeps", [(), ("min_area",)])
def test_an_analysis_sees_the_images_as_the_predictor_does(tmp_path, sweeps) -> None:
    segmentation = Segmentation.from_ids(np.ones((128, 128), np.int32), CATEGORIES, labels=[0])
    with panoptic_writer(tmp_path, CATEGORIES, {}) as write:
        write(replace(segmentation, file_name="a.png"), "a")
    (tmp_path / "images").mkdir()
    Image.fromarray(RAMP[..., 0]).save(tmp_path / "images" / "a.png")
    whole, analyzed = Watching(white_level=4095.0), Watching(white_level=4095.0)
    Predictor(whole, tile=None)(tmp_path / "images" / "a.png")
    files = {"panoptic_json": tmp_path / "panoptic.json", "panoptic_pngs": tmp_path / "panoptic"}
    dataset = open_dataset(None, images=tmp_path / "images", **files)
    found = analyze(Predictor(analyzed, tile=None), dataset, sweeps=sweeps)
    assert not found.failures and np.array_equal(analyzed.seen[0], whole.seen[0])
    tiled = analyze(Predictor(Watching(), tile=64), dataset, sweeps=sweeps)
    assert not tiled.failures and tiled.images == ["a.png"]
