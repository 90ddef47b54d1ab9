"""Evaluating a model on a data set: figures, groups, thresholds, gallery."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskconver import Categories, Category, Geometry, Predictor, Proposals, Segmentation
from maskconver.cli.main import main
from maskconver.core.config import InputConfig, PostprocessConfig
from maskconver.core.panoptic_png import write_panoptic_png
from maskconver.data import open_dataset
from maskconver.data.dataset import DataWarning, Sample
from maskconver.data.synth.write import synth_categories, write_dataset
from maskconver.errors import ConfigError, DataError
from maskconver.inference.evaluation import Figures, _answering, evaluate, tune, write_gallery
from maskconver.inference.mosaic import Tiling
from maskconver.metrics.overlap import segment_table
from tests.fakes import FakeRuntime

SIZE = 48


class Oracle:
    """A runtime that proposes the true segments of one image after the other, and noise of another score."""

    def __init__(self, dataset, noise: float = 0.2) -> None:
        self.input = InputConfig(size=(SIZE, SIZE))
        self.postprocess = PostprocessConfig(min_area=0.0, score_threshold=0.1)
        self.categories = dataset.categories
        self.dataset, self.noise, self.next = dataset, noise, 0

    def __call__(self, images: np.ndarray) -> Proposals:
        sample = self.dataset[self.next % len(self.dataset)]
        self.next += 1
        masks = [sample.ids == i for i in sample.segments.ids]
        labels = [*sample.segments.labels, 0]
        masks.append(np.ones((SIZE, SIZE), bool))
        scores = np.array([0.9] * (len(masks) - 1) + [self.noise], np.float32)
        logits = np.where(np.stack(masks), 9.0, -9.0).astype(np.float32)
        return Proposals(scores[None], np.array(labels)[None], logits[None])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("data")
    path = write_dataset(folder, style="cells", count=3, size=(SIZE, SIZE), seed=0, split="val")
    content = json.loads(path.read_text())
    for i, image in enumerate(content["images"]):
        image["kind"] = "odd" if i % 2 else "even"
    path.write_text(json.dumps(content))
    return open_dataset(folder, "val")


def test_a_model_that_knows_the_answer_scores_one(dataset) -> None:
    result = evaluate(Predictor(Oracle(dataset)), dataset, by="kind")
    figures = result.total.to_json()
    assert figures["Things"]["pq"] == pytest.approx(1.0)
    assert figures["mIoU"]["miou"] == pytest.approx(1.0)
    assert figures["AP50_pooled"]["ap"] == pytest.approx(1.0)
    assert {name: f.images for name, f in result.groups.items()} == {"even": 2, "odd": 1}
    assert result.failures == []


def test_groups_add_up_to_the_whole(dataset) -> None:
    result = evaluate(Predictor(Oracle(dataset, noise=0.95)), dataset, by="kind")
    parts = sum(f.pq.state for f in result.groups.values())
    np.testing.assert_allclose(parts, result.total.pq.state)


def test_tuning_finds_the_threshold_that_drops_the_noise(dataset) -> None:
    oracle = Oracle(dataset, noise=0.45)
    predictor = Predictor(oracle, score_threshold=0.05)
    config, grid = tune(predictor, dataset, (0.3, 0.6), overlap_thresholds=(0.5, 0.7))
    assert config.score_threshold in (0.3, 0.6)
    assert max(v for *_, v in grid) == pytest.approx(1.0)
    assert config.min_area == oracle.postprocess.min_area


def test_tuning_in_tiles_runs_the_network_once_a_tile(dataset) -> None:
    runtime = FakeRuntime("native", (16, 16))
    runtime.categories = dataset.categories
    predictor = Predictor(runtime, tile=32, overlap=8)
    configs = [replace(predictor.postprocess, score_threshold=s) for s in (0.1, 0.85)]
    of_image = _answering(predictor, configs, 0.1)
    answers = [list(of_image(dataset.image(index))) for index in range(len(dataset))]
    tiles = len(Tiling.of((SIZE, SIZE), 32, 8, align=8))
    assert len(runtime.shapes) == tiles * len(dataset)
    for index, found in enumerate(answers):
        for config, answer in zip(configs, found):
            single = Predictor(runtime, tile=32, overlap=8, score_threshold=config.score_threshold)
            expected = single(dataset.image(index))
            assert (answer.ids == expected.ids).all() and answer.segments == expected.segments


def test_tuned_figures_are_those_of_the_tuned_model_where_masks_are_a_softmax_over_all(dataset) -> None:
    class Rival(Oracle):
        """The last proposal scores nothing and claims all but the last columns, so that others lose them."""

        def __call__(self, images: np.ndarray) -> Proposals:
            found = super().__call__(images)
            found.mask_logits[0, -1, :, : SIZE // 2] = 9.5
            found.mask_logits[0, -1, :, SIZE // 2 :] = -9
            return found

    oracle = Rival(dataset, noise=0.01)
    oracle.postprocess = replace(oracle.postprocess, rule="kmax", mask_threshold=0.5, overlap_threshold=0.3)
    predictor = Predictor(oracle)
    predictor.postprocess, grid = tune(predictor, dataset, (0.1, 0.3), overlap_thresholds=(0.3,))
    oracle.next = 0
    assert grid[0][2] == pytest.approx(evaluate(predictor, dataset).total.headline[1])
    assert 0 < grid[0][2] < 1


def test_tuning_leaves_out_what_evaluating_would_and_says_so(tmp_path: Path) -> None:
    write_dataset(tmp_path, style="cells", count=5, size=(SIZE, SIZE), seed=0, split="val")
    content = json.loads((tmp_path / "panoptic_val.json").read_text())
    content["annotations"][2]["segments_info"][0]["area"] = 1  # fewer than it shares with the prediction
    (tmp_path / "panoptic_val.json").write_text(json.dumps(content))
    data = open_dataset(tmp_path, "val")
    Path(data.image_path(0)).write_bytes(b"not an image")
    Path(data.png_path(1)).unlink()
    with Image.open(data.image_path(3)) as image:
        smaller = image.crop((0, 0, SIZE, SIZE - 10))
    smaller.save(data.image_path(3))

    class Known(Oracle):
        """Asked for the images 2 and 4 alone, the others cannot be read."""

        def __call__(self, images: np.ndarray) -> Proposals:
            self.next = 2 if self.next % 2 == 0 else 4
            return super().__call__(images)

    oracle = Known(data)
    with pytest.warns(DataWarning, match="thresholds are chosen without it") as told:
        _, grid = tune(Predictor(oracle), data, (0.3, 0.95), overlap_thresholds=(0.5,))
    assert sum("without it" in str(w.message) for w in told) == 4
    assert [round(value, 6) for *_, value in grid] == [1.0, 0.0]


def test_tuning_refuses_data_of_which_nothing_can_be_read(tmp_path: Path) -> None:
    write_dataset(tmp_path, style="cells", count=1, size=(SIZE, SIZE), seed=0, split="val")
    data = open_dataset(tmp_path, "val")
    Path(data.image_path(0)).unlink()
    with pytest.warns(DataWarning), pytest.raises(DataError, match="no image can be evaluated"):
        tune(Predictor(Oracle(data)), data)


def test_tuning_takes_categories_in_another_order(tmp_path: Path) -> None:
    write_dataset(tmp_path, style="scenes", count=2, size=(SIZE, SIZE), seed=1, split="val")
    data = open_dataset(tmp_path, "val")
    data.use_categories(Categories([*reversed([*data.categories])]))
    _, grid = tune(Predictor(Oracle(data)), open_dataset(tmp_path, "val"), (0.3,), overlap_thresholds=(0.5,))
    assert grid[0][2] == pytest.approx(1.0)


def test_tuning_takes_tensors_that_numpy_cannot_read(dataset) -> None:
    torch = pytest.importorskip("torch")

    class OnGpu(torch.Tensor):
        def __array__(self, *_: object) -> np.ndarray:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

    class Device(Oracle):
        def __call__(self, images: np.ndarray) -> Proposals:
            found = super().__call__(images)
            arrays = found.scores, found.labels, found.mask_logits
            return Proposals(*(torch.from_numpy(a).as_subclass(OnGpu) for a in arrays))

    _, grid = tune(Predictor(Device(dataset)), dataset, (0.3,), overlap_thresholds=(0.5,))
    assert grid[0][2] == pytest.approx(1.0)


def test_an_unknown_group_key_is_refused(dataset) -> None:
    with pytest.raises(ConfigError, match="nothing"):
        evaluate(Predictor(Oracle(dataset)), dataset, by="nothing")


def test_categories_that_differ_name_fine_tuning_as_the_way_out(dataset) -> None:
    oracle = Oracle(dataset)
    oracle.categories = Categories([Category(1, "cat", True, (0, 0, 0))])
    with pytest.raises(ConfigError, match="train --init-from"):
        evaluate(Predictor(oracle), dataset)


def test_colours_may_differ(dataset) -> None:
    oracle = Oracle(dataset)
    oracle.categories = Categories(
        [Category(c.id, c.name, c.is_thing, (1, 2, 3)) for c in dataset.categories]
    )
    assert evaluate(Predictor(oracle), dataset).total.images == 3


def test_an_image_that_cannot_be_read_is_listed_and_the_others_count(tmp_path: Path) -> None:
    write_dataset(tmp_path, style="cells", count=3, size=(SIZE, SIZE), seed=0, split="val")
    data = open_dataset(tmp_path, "val")
    Path(data.image_path(1)).write_bytes(b"not an image")
    result = evaluate(Predictor(_Constant(data.categories)), data)
    assert result.total.images == 2
    assert [Path(f).name for f, _ in result.failures] == [data.file_names[1]]


class _Constant:
    """Everything is background."""

    def __init__(self, categories: Categories) -> None:
        self.input, self.postprocess, self.categories = (
            InputConfig(size=(32, 32)),
            PostprocessConfig(),
            categories,
        )

    def __call__(self, images: np.ndarray) -> Proposals:
        ones = np.ones((1, 1, 8, 8), np.float32)
        return Proposals(
            np.ones((1, 1), np.float32), np.array([[1]]), ones, None, (Geometry((32, 32), (32, 32)),)
        )


def test_miou_comes_from_the_scores_of_all_masks_where_asked_for(dataset) -> None:
    unsure = _Constant(dataset.categories)
    unsure.postprocess = PostprocessConfig(score_threshold=1.0)  # nothing is claimed: all void
    panoptic, scores = (
        evaluate(Predictor(unsure), dataset, semantic_from=source).total.miou.compute()
        for source in ("panoptic", "scores")
    )
    assert panoptic.pixel_accuracy == 0
    background = np.mean([(dataset[i].ids == 1).mean() for i in range(len(dataset))])
    assert scores.pixel_accuracy == pytest.approx(background, abs=0.2) and scores.pixel_accuracy > 0.3


def test_by_default_figures_come_from_what_the_models_papers_report(dataset) -> None:
    model = _Constant(dataset.categories)
    assert evaluate(Predictor(model), dataset).semantic_from == "panoptic"
    model.postprocess = PostprocessConfig(rule="kmax", score_threshold=1.0)
    result = evaluate(Predictor(model), dataset)
    assert (result.semantic_from, result.instances_from) == ("scores", "scores")
    assert result.total.miou.compute().pixel_accuracy > 0.3  # of the panoptic result, which is void, 0


def test_mask_ap_comes_from_the_best_pairs_where_asked_for(dataset) -> None:
    pytest.importorskip("hotcoco")
    strict = Predictor(Oracle(dataset), score_threshold=0.95)  # no segment is left
    panoptic, scores = (
        evaluate(strict, dataset, mask_ap=True, instances_from=source).total.mask_ap.compute().ap50
        for source in ("panoptic", "scores")
    )
    assert panoptic == 0 and scores == pytest.approx(1.0)


def test_gallery_holds_the_best_and_the_worst(dataset, tmp_path: Path) -> None:
    predictor = Predictor(_Constant(synth_categories("cells")))
    paths = write_gallery(tmp_path / "g", predictor, dataset, quality=[(0, 0.9), (1, 0.1), (2, 0.5)], count=1)
    assert [p.name[:11] for p in paths] == ["best_01_090", "worst_01_01"]
    assert all(p.stat().st_size > 0 for p in paths)


def test_evaluate_from_the_command_line_prints_and_tunes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    from maskconver import load, save
    from maskconver.models import create_model

    write_dataset(tmp_path / "d", style="cells", count=2, size=(SIZE, SIZE), seed=0, split="val")
    model = create_model(
        "maskconver_mobile_dense_512", categories=synth_categories("cells"), filters=16, embedding_dim=8,
        input={"size": (SIZE, SIZE)}, proposals=10, postprocess={"score_threshold": 0.0},
    )  # fmt: skip
    save(model, tmp_path / "m.safetensors")
    words = ["evaluate", str(tmp_path / "m.safetensors"), "--data", str(tmp_path / "d"), "--split", "val"]
    assert main([*words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) >= {"All", "Things", "Stuff", "per_class", "mIoU", "AP50_pooled", "images_per_second"}
    assert main([*words, "--per-class", "--tune", str(tmp_path / "tuned.safetensors")]) == 0
    assert "best thresholds" in capsys.readouterr().out
    assert load(tmp_path / "tuned.safetensors").postprocess.overlap_threshold in (0.3, 0.5, 0.6, 0.7, 0.8)


def test_a_group_without_any_segment_is_printed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_dataset(tmp_path, style="cells", count=2, size=(SIZE, SIZE), seed=0, split="val")
    content = json.loads(path.read_text())
    content["annotations"][1]["segments_info"] = []
    for image, site in zip(content["images"], ("[north]", "")):
        image["site"] = site
    path.write_text(json.dumps(content))
    data = open_dataset(tmp_path, "val")
    write_panoptic_png(data.png_path(1), np.zeros((SIZE, SIZE), np.int32))
    monkeypatch.setattr("maskconver.inference.predictor.open_runtime", lambda *_, **__: Oracle(data))
    words = ["evaluate", "m", "--data", str(tmp_path), "--by", "site", "--score-threshold", "0.95"]
    assert main(words) == 0
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert "[north] all" in rows and '"" all' in rows


class TestSemantic:
    """Where every class is stuff, mIoU is the figure."""

    @pytest.fixture(scope="class")
    def labelled(self, tmp_path_factory: pytest.TempPathFactory):
        folder = tmp_path_factory.mktemp("labels")
        for kind in ("images", "labels"):
            (folder / kind / "val").mkdir(parents=True)
        for number in range(2):
            labels = np.zeros((SIZE, SIZE), np.uint8)
            labels[SIZE // 2 :] = 1 + number
            labels[:, -3:] = 255
            image = np.full((SIZE, SIZE, 3), 90, np.uint8)
            Image.fromarray(image).save(folder / "images" / "val" / f"{number}.png")
            Image.fromarray(labels).save(folder / "labels" / "val" / f"{number}.png")
        (folder / "classes.txt").write_text("sky\nroad\ngrass\ncar\n")
        return open_dataset(folder, "val")

    def test_a_model_that_knows_the_answer_has_an_miou_of_one(self, labelled) -> None:
        total = evaluate(Predictor(Oracle(labelled)), labelled).total
        assert total.headline == ("mIoU", 1.0)
        assert total.miou.compute().per_class[1] == 1.0 and np.isnan(total.miou.compute().per_class[4])

    def test_a_class_that_lowers_the_mean_has_a_row(
        self, labelled, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Cars(_Constant):
            """All is a car, which no image has, but not surely enough to be a segment."""

            def __call__(self, images: np.ndarray) -> Proposals:
                return replace(super().__call__(images), labels=np.array([[3]]))

        model = Cars(labelled.categories)
        model.postprocess = PostprocessConfig(rule="kmax", score_threshold=1.0)
        monkeypatch.setattr("maskconver.inference.predictor.open_runtime", lambda *_, **__: model)
        words = ["evaluate", "m", "--data", str(labelled.path.parent), "--split", "val", "--per-class"]
        assert main(words) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["car", "0.00", "0.00", "0.00", "0.00", "0", "0", "0"] in lines

    def test_pixels_to_ignore_do_not_count_and_wrong_ones_do(self, labelled) -> None:
        oracle = Oracle(labelled, noise=0.95)  # everything is sky, more surely than anything else
        name, value = evaluate(Predictor(oracle), labelled).total.headline
        assert (name, value) == ("mIoU", pytest.approx(0.5 / 3))

    def test_tuning_maximises_it(self, labelled) -> None:
        config, grid = tune(Predictor(Oracle(labelled, noise=0.05)), labelled)
        assert len(grid) == 21 and max(v for *_, v in grid) == 1.0
        assert config.score_threshold < 0.9

    def test_tuning_varies_the_threshold_that_rules_stuff(self, labelled) -> None:
        oracle = Oracle(labelled, noise=0.05)
        oracle.postprocess = replace(
            oracle.postprocess, rule="kmax", score_threshold=0.7, stuff_threshold=0.5
        )
        config, grid = tune(Predictor(oracle), labelled, (0.3, 0.95), overlap_thresholds=(0.0,))
        assert (config.score_threshold, config.stuff_threshold) == (0.7, 0.3)
        assert grid[0][2] > grid[1][2]

    def test_the_command_prints_it_first(
        self, labelled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("torch")
        from maskconver import save
        from maskconver.models import create_model

        model = create_model(
            "maskconver_mobile_dense_512", categories=labelled.categories, filters=16, embedding_dim=8,
            input={"size": (SIZE, SIZE)}, proposals=10, postprocess={"score_threshold": 0.0},
        )  # fmt: skip
        save(model, tmp_path / "m.safetensors")
        words = ["evaluate", str(tmp_path / "m.safetensors"), "--split", "val"]
        words += ["--data", str(labelled.path.parent)]
        assert main([*words, "--per-class"]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
        assert lines[0][:4] == ["images", "mIoU", "pixel", "accuracy"]
        assert lines[1][:2] == ["all", "2"] and lines[2][:2] == ["class", "IoU"]
        assert main([*words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["headline"]["name"] == "mIoU"


def test_an_annotation_of_another_size_than_its_image_is_a_failure(tmp_path) -> None:
    write_dataset(tmp_path, style="cells", count=2, size=(SIZE, SIZE), seed=1, split="val")
    data = open_dataset(tmp_path, "val")
    oracle = Oracle(data)
    oracle.dataset = [data[0], data[1]]
    first = Path(data.image_path(0))
    with Image.open(first) as image:
        smaller = image.crop((0, 0, SIZE, SIZE - 10))
    smaller.save(first)
    result = evaluate(Predictor(oracle), data)
    assert [path for path, _ in result.failures] == [str(first)]
    assert "they must be of one size" in result.failures[0][1]


def test_the_order_of_the_categories_does_not_matter(tmp_path) -> None:
    write_dataset(tmp_path, style="scenes", count=2, size=(SIZE, SIZE), seed=1, split="val")
    figures = []
    for turned in (False, True):
        data = open_dataset(tmp_path, "val")
        if turned:
            data.use_categories(Categories([*reversed([*data.categories])]))
        oracle = Oracle(data)
        figures.append(
            evaluate(Predictor(oracle), open_dataset(tmp_path, "val")).total.to_json()["All"]["pq"]
        )
    assert figures[0] == figures[1]


def test_an_image_whose_truth_is_refused_does_not_count() -> None:
    categories = Categories([Category(1, "cell", True, (0, 0, 0))])
    ids, figures = np.ones((2, 3), np.int32), Figures(categories)
    rows = [{"id": 1, "category_id": 1, "area": 2}]  # of 6 pixels
    answer = Segmentation.from_ids(ids, categories, labels=[0])
    with pytest.raises(DataError, match="stated area"):
        figures.add_image(answer, ids, segment_table(rows, categories))
    assert figures.images == 0


def test_an_annotation_with_ids_that_are_not_listed_can_be_drawn_as_it_is_evaluated() -> None:
    categories = Categories([Category(1, "cell", True, (0, 0, 0))])
    ids, segments = np.array([[1, 0, 77]], np.int32), segment_table(([1], [0]), categories)
    found = Sample(np.zeros((1, 3, 3), np.uint8), ids, segments).segmentation(categories)
    assert found.ids.tolist() == [[1, 0, 0]] and [s.area for s in found] == [1]
