"""Mistakes get the right cause, and their losses add up to 1 - PQ."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.fakes import FakeRuntime, bright_and_dark

from maskconver.analysis.mistakes import CAUSES, Mistakes, find_mistakes
from maskconver.analysis.report import write_report
from maskconver.analysis.run import analyze, results
from maskconver.analysis.summary import Analysis, compare, quality_of
from maskconver.cli.main import main
from maskconver.core.categories import Categories, Category
from maskconver.core.config import InputConfig
from maskconver.core.panoptic_png import write_panoptic_png
from maskconver.core.proposals import Proposals
from maskconver.data.dataset import DataWarning
from maskconver.data.open import open_dataset
from maskconver.errors import ConfigError
from maskconver.inference.predictor import Predictor
from maskconver.metrics import PanopticQuality
from maskconver.metrics.mask_ap import TIDE
from maskconver.metrics.overlap import Overlap

CATEGORIES = Categories(
    [
        Category(1, "cell", True, (200, 0, 0)),
        Category(2, "egg", True, (0, 200, 0)),
        Category(3, "ground", False, (9, 9, 99)),
    ]
)


def causes_of(pred: np.ndarray, pred_labels: list[int], gt: np.ndarray, gt_labels: list[int]) -> Mistakes:
    gt = np.where(gt == 0, 99, gt)  # an id that no row lists: neither void nor a segment
    segments = (range(1, len(pred_labels) + 1), pred_labels), (range(1, len(gt_labels) + 1), gt_labels)
    overlap = Overlap.of(
        pred,
        tuple(map(np.array, segments[0])),
        gt,
        tuple(map(np.array, segments[1])),
        categories=CATEGORIES,
    )
    return find_mistakes(overlap, pred, gt, CATEGORIES.is_thing, scores=np.full(len(pred_labels), 0.5))


def boxes(*at: tuple[int, int, int, int]) -> np.ndarray:
    ids = np.zeros((40, 40), np.int32)
    for number, (y, x, height, width) in enumerate(at, 1):
        ids[y : y + height, x : x + width] = number
    return ids


@pytest.mark.parametrize(
    ("pred", "pred_labels", "gt", "gt_labels", "missed", "spurious"),
    [
        ([], [], [(0, 0, 8, 8)], [0], ["missed"], []),
        ([(0, 0, 8, 8)], [0], [], [], [], ["spurious"]),
        ([(0, 0, 8, 8)], [1], [(0, 0, 8, 8)], [0], ["wrong class"], ["wrong class"]),
        ([(0, 0, 8, 20)], [0], [(0, 0, 8, 10), (0, 10, 8, 10)], [0, 0], ["merged"] * 2, ["merged"]),
        ([(0, 0, 8, 8), (0, 8, 8, 8)], [0, 0], [(0, 0, 8, 16)], [0], ["split"], ["split"] * 2),
        ([(0, 4, 8, 8)], [0], [(0, 0, 8, 8)], [0], ["inaccurate"], ["inaccurate"]),
        ([(0, 0, 8, 12), (0, 12, 8, 4)], [0, 0], [(0, 0, 8, 16)], [0], [], ["split"]),
        ([(20, 20, 8, 8)], [1], [(0, 0, 8, 8)], [0], ["missed"], ["spurious"]),
    ],
)
def test_every_kind_of_mistake_has_its_cause(pred, pred_labels, gt, gt_labels, missed, spurious) -> None:  # type: ignore[no-untyped-def]
    found = causes_of(boxes(*pred), pred_labels, boxes(*gt), gt_labels)
    names = np.array(list(CAUSES))
    assert names[found.cause[~found.matched & ~found.predicted]].tolist() == missed
    assert names[found.cause[found.predicted]].tolist() == spurious


def test_pixels_near_the_true_edge_are_boundary_and_others_coverage() -> None:
    shifted = causes_of(boxes((5, 6, 20, 20)), [0], boxes((5, 5, 20, 20)), [0])
    assert shifted.edge.tolist() == [1.0]
    holed = boxes((5, 5, 20, 20))
    holed[12:18, 12:18] = 0
    assert causes_of(holed, [0], boxes((5, 5, 20, 20)), [0]).edge.tolist() == [0.0]


def test_border_and_neighbours() -> None:
    gt = boxes((0, 5, 8, 8), (20, 20, 5, 5), (20, 25, 5, 5))
    found = causes_of(gt, [0, 0, 0], gt, [0, 0, 0])
    assert found.border.tolist() == [True, False, False]
    assert found.crowded.tolist() == [False, True, True]


def random_image(random: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    number = int(random.integers(1, 7))
    at = [(*random.integers(0, 30, 2), *random.integers(3, 15, 2)) for _ in range(number)]
    ids = boxes(*at)
    kept, ids = np.unique(ids, return_inverse=True)
    ids = ids.reshape(40, 40) + (0 if kept[0] == 0 else 1)
    return ids.astype(np.int32), random.integers(0, 3, int(ids.max())).tolist()


def test_losses_add_up_to_what_panoptic_quality_lacks() -> None:
    random = np.random.default_rng(3)
    metric, parts = PanopticQuality(CATEGORIES), []
    for image in range(40):
        (gt, gt_labels), (pred, pred_labels) = random_image(random), random_image(random)
        if image % 2:
            pred, pred_labels = np.roll(gt, 1, 1), gt_labels
        segments = [(np.arange(1, len(x) + 1), np.array(x, int)) for x in (pred_labels, gt_labels)]
        overlap = Overlap.of(pred, segments[0], gt, segments[1], categories=CATEGORIES)
        metric.add(overlap)
        parts.append(find_mistakes(overlap, pred, gt, CATEGORIES.is_thing, image=image))
    mistakes = Mistakes.concatenate(parts)
    found = Analysis(CATEGORIES, mistakes, [str(i) for i in range(40)], list(range(40)))
    found.quality = [quality_of(mistakes[mistakes.image == i], CATEGORIES.is_thing) for i in range(40)]
    assert np.allclose(found.counts, metric.state)
    result = metric.compute()
    assert math.isclose(sum(found.losses().values()), 1 - result.all.pq)
    assert math.isclose(sum(found.losses(things=True).values()), 1 - result.things.pq)
    assert sum(g["segments"] for g in found.by("class")) == metric.state[:, [0, 2]].sum()
    for group in found.by("size") + found.by("position"):
        assert math.isclose(group["pq"] + sum(group["losses"].values()), 1)
    oracles = found.oracles()
    assert math.isclose(oracles["as it is"], result.all.pq)
    assert min(oracles.values()) == oracles["as it is"]

    same = compare(found, found, draws=20)
    assert (same.low, same.high, same.better, same.worse) == (0, 0, [], [])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert main(["data", "synth", str(tmp_path / "data"), "--count", "3", "--size", "64", "64"]) == 0
    return tmp_path


def test_predictions_from_files_and_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = open_dataset(folder / "data")
    content = json.loads((folder / "data" / "panoptic_train.json").read_text())
    (folder / "found").mkdir()
    dropped = 0
    for row, annotation in enumerate(content["annotations"]):
        ids = data.ids(row).copy()
        gone = annotation["segments_info"].pop(0)["id"]
        dropped += 1
        ids[ids == gone] = 0
        write_panoptic_png(folder / "found" / annotation["file_name"], ids)
        for segment in annotation["segments_info"]:
            segment.pop("area", None)
    (folder / "found.json").write_text(json.dumps(content))
    found = analyze(folder / "found.json", data)
    single = ~found.mistakes.matched
    assert single.sum() <= dropped and not found.failures and not found.sweeps

    page = folder / "page.html"
    capsys.readouterr()
    words = [
        "analyze",
        "--sweep=size",  # files of predictions have nothing to vary
        str(folder / "found.json"),
        "--data",
        str(folder / "data"),
        "--out",
        str(page),
        "--json",
    ]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert math.isclose(answer["All"]["pq"] + sum(answer["losses"].values()), 1)
    text = page.read_text(encoding="utf-8")
    assert "http" not in text and text.count('class="image"') == 3
    name = min(found.images, key=lambda n: found.quality[found.images.index(n)])
    first = text[text.index('class="worst"') : text.index("<h2>")]  # before all tables
    assert f"<b>{name}</b>" in first and re.search(r"PQ [\d.]+: 1 of \d+ [\w ]+ not found", first)


def test_bad_input_is_told_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(folder / "data"), "--out", str(folder / "page.html")]
    own = str(folder / "data" / "panoptic_train.json")
    for words in ([own, "--by", "weather"], [own, "--worst", "-1"], [str(folder / "no.json")]):
        assert main(["analyze", *words, *data]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "Traceback" not in told
    assert not (folder / "page.html").exists()


def test_proposals_and_sizes_are_varied_with_the_time_they_take(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_dataset(folder / "data")
    predictor = Predictor(Scaling(data.categories), score_threshold=0.0)
    found = analyze(predictor, data, sweeps=("proposals", "size", "min_area"))
    assert not found.failures and found.settings["proposals"] == 2 and found.settings["size"] == 64
    assert [row["value"] for row in found.sweep("proposals")] == [1, 2, 4]
    assert [row["value"] for row in found.sweep("size")] == [32, 48, 64, 80, 96]
    assert all(row["seconds"] > 0 for name in ("proposals", "size") for row in found.sweep(name))
    assert "seconds" not in found.sweep("min_area")[0]
    used = dict(found.sweeps["size"])[64.0]
    assert used == dict(found.sweeps["proposals"])[2.0]  # the model as it is

    page = folder / "page.html"
    write_report(page, found, data, [], title="t")
    text = page.read_text(encoding="utf-8")
    assert "PQ against proposals" in text and "64 (in use)" in text and "ms an image" in text


def test_a_file_of_one_size_cannot_be_varied_in_size(folder: Path) -> None:
    data = open_dataset(folder / "data")
    runtime = Scaling(data.categories)
    runtime.file = SimpleNamespace(size=(64, 64), multiple=16, output="proposals")
    with pytest.raises(ConfigError, match="has one size, so `size` cannot be varied"):
        analyze(Predictor(runtime), data, sweeps=("size",))


def test_what_mask_ap_lacks_is_split(folder: Path) -> None:
    pytest.importorskip("hotcoco")
    data = open_dataset(folder / "data")
    found = analyze(
        Predictor(Scaling(data.categories), score_threshold=0.0), data, sweeps=(), mask_ap=True
    ).mask_ap
    assert found is not None and set(found.gain) == set(TIDE) == set(found.counts)
    assert 0 <= found.ap50 <= 1 and found.counts["Miss"] > 0
    assert sum(n for true, predicted, n in found.confusion if not predicted) > 0  # true objects not found
    with pytest.raises(ConfigError, match="needs scores"):
        analyze(folder / "data" / "panoptic_train.json", data, mask_ap=True)


def test_the_worst_results_are_kept_for_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset(folder / "data")
    predictor = Predictor(Scaling(data.categories), score_threshold=0.0)
    found = analyze(predictor, data, sweeps=(), keep=2)
    ranked = [i for _, i in sorted(zip(found.quality, found.indices))]
    assert sorted(found.kept) == sorted(ranked[:2])
    rows = (found.mistakes[found.mistakes.image == i] for i in range(3))
    assert found.quality == [quality_of(part, data.categories.is_thing) for part in rows]
    again = dict(results(predictor, data, ranked))
    for index, result in results(predictor, data, ranked, kept=found.kept):
        assert np.array_equal(result.ids, again[index].ids)
    monkeypatch.setattr("maskconver.analysis.run.KEPT_BYTES", 1)
    assert analyze(predictor, data, sweeps=(), keep=2).kept == {}


class Scaling(FakeRuntime):
    """A network that proposes as many masks as it is asked for: bright areas, dark ones, then nothing."""

    def __init__(self, categories: Categories) -> None:
        super().__init__()
        self.categories, self.options, self.file = categories, {"proposals": 2}, None

    def __call__(self, images: np.ndarray) -> Proposals:
        found, number = bright_and_dark(images), self.options["proposals"]
        index = np.minimum(np.arange(number), 1)
        scores = np.where(np.arange(number) < 2, found.scores[:, index], 0).astype(np.float32)
        return Proposals(scores, found.labels[:, index], found.mask_logits[:, index])


@pytest.mark.parametrize(
    ("which", "text"), [("none", "The model finds nothing"), ("same", "Nothing is lost")]
)
def test_advice_where_everything_or_nothing_is_found(which: str, text: str) -> None:
    gt, labels = boxes((2, 2, 10, 10)), [0]
    pred, found = (gt, labels) if which == "same" else (np.zeros_like(gt), list[int]())
    mistakes = causes_of(pred, found, gt, labels)
    assert Analysis(CATEGORIES, mistakes, ["a.png"], [0]).advice().startswith(text)


def test_json_of_nothing_to_measure_has_null_in_place_of_nan() -> None:
    nothing = Analysis(Categories([Category(1, "cell", True, (0, 0, 0))]), Mistakes.concatenate([]), [])
    nothing.sweeps = {"score_threshold": [(0.1, math.nan)]}
    found = nothing.to_json() | {"versus": compare(nothing, nothing).to_json()}
    json.dumps(found, allow_nan=False)
    assert found["oracles"]["masks"] is found["versus"]["low"] is None
    assert found["sweeps"]["score_threshold"] == [{"value": 0.1, "pq": None}]


def test_the_page_of_predictions_from_files_lists_an_image_that_cannot_be_read(folder: Path) -> None:
    data, predictions = open_dataset(folder / "data"), folder / "data" / "panoptic_train.json"
    found = analyze(predictions, data)
    gone = Path(data.image_path(1))
    gone.unlink()
    write_report(folder / "page.html", found, data, results(predictions, data, range(3)), title="")
    assert (folder / "page.html").read_text(encoding="utf-8").count('class="image"') == 2
    assert [path for path, _ in found.failures] == [str(gone)]


@pytest.mark.parametrize("sweep", ["size", "score_threshold"])
def test_images_in_tiles_are_left_out_of_sweeps_with_a_word(
    sweep: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_dataset(folder / "data")
    runtime = Scaling(data.categories)
    runtime.input = InputConfig("native", (32, 32), 1.0, 16, mean=(0.0,) * 3, std=(1.0,) * 3)
    monkeypatch.setattr("maskconver.inference.tiles.AUTO_SIDE", 32)
    monkeypatch.setattr("maskconver.inference.predictor.open_runtime", lambda *_, **__: runtime)
    page = folder / "page.html"
    words = ["analyze", "m", "--data", str(folder / "data"), "--out", str(page), "--sweep", sweep]
    assert main(words) == 0
    assert "3 of 3 images are segmented in tiles" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert "3 of 3 images, segmented in tiles, are left out" in text and "PQ against" not in text


def test_images_of_one_file_name_are_compared_one_by_one() -> None:
    gt = boxes((2, 2, 10, 10))
    parts = [causes_of(gt, [0], gt, [0]), causes_of(np.zeros_like(gt), [], gt, [0])]
    parts[1].image[:] = 1
    first = Analysis(CATEGORIES, Mistakes.concatenate(parts), ["a.png"] * 2, [4, 7], quality=[1.0, 0.0])
    second = Analysis(CATEGORIES, Mistakes.concatenate([parts[0]]), ["a.png"], [4], quality=[1.0])
    assert compare(first, first, draws=2).first == pytest.approx(2 / 3)
    only = compare(first, second, draws=2)  # the other image failed
    assert (only.first, only.second, only.better) == (1.0, 1.0, [])


def test_predictions_whose_category_ids_mean_something_else_are_warned_of(folder: Path) -> None:
    data, own = open_dataset(folder / "data"), folder / "data" / "panoptic_train.json"
    content = json.loads(own.read_text())
    content["categories"][0]["name"] = "lorry"
    other = own.with_name("other.json")
    other.write_text(json.dumps(content))
    own.with_name("other").symlink_to(own.parent / "panoptic" / "train")
    with pytest.warns(DataWarning, match='"lorry" here'):
        assert not analyze(other, data).failures
