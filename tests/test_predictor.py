"""A picture in, a Segmentation of its own size out."""

import numpy as np
import pytest
from PIL import Image

from maskconver.config import MergeConfig
from maskconver.data.images import ImageWarning
from maskconver.errors import ConfigError, ImageError, MaskconverError, MissingExtraError
from maskconver.predictor import Predictor, Runtime, open_runtime
from tests.fakes import CATEGORIES, FakeRuntime, bright_and_dark, picture


def overlap(seg, image) -> float:
    """IoU of the cell found and the bright part of the picture."""
    cell = np.isin(seg.ids, [s.id for s in seg if s.is_thing])
    bright = image[..., 0] > 127
    return (cell & bright).sum() / (cell | bright).sum()


@pytest.mark.parametrize(
    "runtime",
    [
        FakeRuntime(size=(64, 64)),
        FakeRuntime(size=(256, 192)),
        FakeRuntime("native"),
        FakeRuntime("native", scale=2.0),
        FakeRuntime("native", scale=0.7),
    ],
    ids=["fit smaller", "fit larger", "native", "native doubled", "native reduced"],
)
@pytest.mark.parametrize("size", [(60, 90), (200, 77), (64, 64), (90, 150)])
def test_masks_lie_where_the_objects_are_at_the_pictures_own_size(runtime, size):
    image = picture(*size)
    seg = Predictor(runtime)(image)
    assert seg.ids.shape == size and seg.categories == CATEGORIES
    assert [s.category for s in seg] == ["cell", "ground"]
    assert overlap(seg, image) > 0.8
    np.testing.assert_array_equal(seg.image, image)


def test_one_pixel_pictures_are_fine():
    for mode in ("fit", "native"):
        assert Predictor(FakeRuntime(mode))(np.full((1, 1, 3), 255, np.uint8)).ids.shape == (1, 1)


def test_path_pillow_array_and_tensor_give_the_same_answer(tmp_path):
    torch = pytest.importorskip("torch")
    image = picture()
    path = tmp_path / "cells.png"
    Image.fromarray(image).save(path)
    predictor = Predictor(FakeRuntime())
    answers = predictor(
        [path, str(path), Image.open(path), image, image[..., 0], torch.from_numpy(image).permute(2, 0, 1)]
    )
    for answer in answers:
        np.testing.assert_array_equal(answer.ids, answers[0].ids)
    assert [a.file_name for a in answers] == ["cells.png"] * 3 + [""] * 3


def test_a_list_gives_a_list_and_an_empty_one_an_empty_one():
    predictor = Predictor(FakeRuntime())
    assert [s.ids.shape for s in predictor([picture(), picture(30, 20)])] == [(60, 90), (30, 20)]
    assert predictor([]) == []


def test_images_of_one_canvas_run_together_up_to_the_batch_size_and_keep_their_order():
    runtime = FakeRuntime("native")
    sizes = [(16, 16), (10, 12), (40, 16), (16, 16), (16, 16)]
    answers = Predictor(runtime, batch_size=3)([picture(*size) for size in sizes])
    assert runtime.shapes == [(2, 3, 16, 16), (1, 3, 48, 16), (2, 3, 16, 16)]
    assert [a.ids.shape for a in answers] == sizes


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((4, 5), True), 255),
        (np.full((4, 5, 1), 200, np.uint8), 200),
        (np.full((4, 5, 2), 200, np.uint8), 200),
        (np.full((4, 5, 4), 200, np.uint8), 200),
        (np.full((4, 5), 65535, np.uint16), 255),
        (np.full((4, 5), 0.5), 128),
        (np.full((4, 5, 3), 1.0, np.float16), 255),
        (np.full((4, 5, 3), 200, np.int64), 200),
    ],
)
def test_arrays_of_any_usual_kind(array, expected):
    image = Predictor(FakeRuntime())(array).image
    assert image.shape == (4, 5, 3) and image.dtype == np.uint8 and (image == expected).all()


def test_alpha_is_dropped_and_not_composited():
    array = np.full((4, 5, 4), 200, np.uint8)
    array[..., 3] = 0
    assert (Predictor(FakeRuntime())(array).image == 200).all()
    assert (Predictor(FakeRuntime())(Image.fromarray(array)).image == 200).all()


def test_the_white_level_is_shown_as_white():
    array = np.full((4, 5), 4095, np.uint16)
    assert (Predictor(FakeRuntime(), white_level=4095)(array).image == 255).all()
    with pytest.warns(ImageWarning, match="white_level=4095"):
        assert Predictor(FakeRuntime())(array).image.max() < 20


def test_pillow_pictures_are_turned_upright():
    image = Image.fromarray(picture(20, 30))
    exif = image.getexif()
    exif[0x0112] = 6
    assert Predictor(FakeRuntime())(image).ids.shape == (30, 20)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((3, 40, 50), np.uint8), "transpose"),
        (np.zeros(7), "not one picture"),
        (np.full((4, 5), 130.0), "white_level=130"),
        (np.full((4, 5), -0.5), "expected 0…1"),
        (np.full((4, 5), np.nan), "NaN"),
        (np.zeros((4, 5), complex), "complex"),
        (None, "NoneType is not a picture"),
        ("no/such.png", "no/such.png: no such file"),
    ],
)
def test_what_is_not_a_picture_is_refused(value, message):
    with pytest.raises(ImageError, match=message):
        Predictor(FakeRuntime())(value)


def test_thresholds_can_be_overridden_and_the_models_own_stay():
    runtime = FakeRuntime()
    predictor = Predictor(runtime, object_threshold=0.85)
    assert [s.category for s in predictor(picture())] == ["cell"]
    assert runtime.merge.object_threshold == MergeConfig().object_threshold
    with pytest.raises(ConfigError, match="no setting treshold; the merge has rule"):
        Predictor(runtime, treshold=1)
    with pytest.raises(ConfigError, match="min_area is a share"):
        Predictor(runtime, min_area=64)


def test_nan_from_the_network_is_an_error_with_a_name():
    class Broken(FakeRuntime):
        def __call__(self, images):
            proposals = super().__call__(images)
            proposals.mask_logits[0, 0, 0, 0] = np.nan
            return proposals

    with pytest.raises(MaskconverError, match="mask logits hold NaN"):
        Predictor(Broken())(picture())


def test_what_cannot_be_run_is_refused():
    with pytest.raises(ConfigError, match="cannot run a int"):
        open_runtime(3)
    nameless = FakeRuntime()
    nameless.categories = None
    with pytest.raises(ConfigError, match="no categories"):
        Predictor(nameless)


def test_the_fake_fulfils_the_protocol():
    runtime: Runtime = FakeRuntime()
    assert open_runtime(runtime) is runtime


def test_without_torch_a_model_file_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "maskconver.checkpoint", None)
    monkeypatch.delattr("maskconver.checkpoint", raising=False)
    with pytest.raises(MissingExtraError, match="train"):
        open_runtime("model.safetensors")


@pytest.fixture
def module():
    torch = pytest.importorskip("torch")

    class Bright(torch.nn.Module):
        def __init__(self):
            super().__init__()
            fake = FakeRuntime()
            self.input, self.merge, self.categories = fake.input, fake.merge, fake.categories
            self.weight = torch.nn.Parameter(torch.ones(1))
            self.calls = []

        def predict(self, images, proposals=None):
            self.calls.append((self.training, torch.is_grad_enabled(), proposals))
            found = bright_and_dark((images * self.weight).numpy())
            found.mask_logits = torch.from_numpy(found.mask_logits)
            found.scores, found.labels = torch.from_numpy(found.scores), torch.from_numpy(found.labels)
            return found

    return Bright()


def test_a_module_runs_in_evaluation_without_gradients_and_goes_on_training(module):
    module.train()
    seg = Predictor(module, proposals=7)(picture())
    assert module.calls == [(False, False, 7)] and module.training
    assert overlap(seg, picture()) > 0.8


def test_a_device_that_does_not_exist_is_refused(module):
    with pytest.raises(ConfigError, match='device "tpu9"'):
        Predictor(module, device="tpu9")


def test_a_saved_model_gives_the_answer_of_the_model_itself(tmp_path):
    pytest.importorskip("torch")
    import maskconver as mc

    model = mc.create_model("maskconver_mobile_256", categories=CATEGORIES, proposals=20)
    mc.save(model, tmp_path / "model.safetensors")
    options = {"object_threshold": 0.0, "overlap_threshold": 0.0, "min_area": 0.0}
    expected = Predictor(model, **options)(picture(100, 120))
    answer = Predictor(tmp_path / "model.safetensors", device="cpu", **options)(picture(100, 120))
    assert answer.ids.shape == (100, 120)
    np.testing.assert_array_equal(answer.ids, expected.ids)
