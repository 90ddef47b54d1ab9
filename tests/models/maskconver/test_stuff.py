"""Stuff from a semantic head, things from centres: one list of proposals."""

from __future__ import annotations

import pytest
import torch
import yaml
from torch import Tensor

from maskconver.core.categories import Categories, Category
from maskconver.core.config import PostprocessConfig
from maskconver.core.proposals import Proposals
from maskconver.errors import ConfigError
from maskconver.merge import postprocess
from maskconver.models import create_model
from maskconver.models.maskconver import MaskConver
from maskconver.models.maskconver.semantic import with_stuff
from maskconver.recipes import find_recipe
from tests.networks import trained_looking

# Things and stuff in no order, as data sets have them.
MIXED = Categories(
    [Category(i, f"c{i}", thing, (i, i, i)) for i, thing in enumerate([False, True, True, False, True])]
)
STUFF_ONLY = Categories([Category(i, f"s{i}", False, (i, i, i)) for i in range(3)])


def model_of(categories: Categories, **changes: object) -> MaskConver:
    given = {"name": "maskconver_mobile_256", **changes}
    return trained_looking(num_classes=None, categories=categories, stuff="semantic", **given)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["maskconver_mobile_256", "maskconver_mobile_dense_512"])
def test_every_stuff_class_is_one_proposal_and_all_others_are_things(images: Tensor, name: str) -> None:
    found = model_of(MIXED, name=name).predict(images)
    assert found.scores.shape == (2, 15)  # as many as without a semantic head
    assert (found.scores.diff(dim=1) <= 0).all()
    for labels in found.labels.tolist():
        assert [labels.count(stuff) for stuff in (0, 3)] == [1, 1]
        assert set(labels) <= set(range(5))


def test_stuff_masks_are_the_softmax_of_the_semantic_logits(images: Tensor) -> None:
    model = model_of(MIXED)
    found, maps = model.predict(images), model(images)
    assert maps.semantic_logits is not None
    probability = maps.semantic_logits.softmax(1)
    for image in range(2):
        for stuff in (0, 3):
            row = found.labels[image].tolist().index(stuff)
            p = probability[image, stuff]
            torch.testing.assert_close(found.mask_logits[image, row].sigmoid(), p, atol=1e-5, rtol=0)
            inside = probability[image].argmax(0) == stuff
            expected = p[inside].sum() / (inside.sum() + p[~inside].sum())
            torch.testing.assert_close(found.scores[image, row], expected, atol=1e-5, rtol=0)


def test_a_class_that_is_clearly_there_scores_1_and_one_that_is_not_0() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 50
    none = Proposals(torch.zeros(1, 0), torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0, 4, 4))
    found = with_stuff(none, logits, (0, 1))
    torch.testing.assert_close(found.scores, torch.tensor([[1.0, 0.0]]), atol=1e-6, rtol=0)
    assert found.labels.tolist() == [[0, 1]] and found.mask_logits.isfinite().all()


def test_with_stuff_alone_every_pixel_gets_its_most_probable_class_as_the_recipe_merges() -> None:
    logits = torch.randn(1, 5, 12, 16, generator=torch.Generator().manual_seed(3))
    logits[:, 4, 3:5, 2:4] = 1 + logits[:, :4, 3:5, 2:4].amax(1)  # a rare class, less sure than 0.5
    assert logits.softmax(1)[:, 4, 3:5, 2:4].max() < 0.8
    categories = Categories([Category(i, f"s{i}", False, (i, i, i)) for i in range(5)])
    none = Proposals(torch.zeros(1, 0), torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0, 12, 16))
    config = PostprocessConfig(**yaml.safe_load(find_recipe("camvid").read_text())["model"]["postprocess"])
    found = postprocess(with_stuff(none, logits, range(5)), config, categories)[0]
    assert torch.equal(torch.from_numpy(found.category_map()).long(), logits[0].argmax(0))
    absent = logits.clone()
    absent[:, 2] = logits.amin(1) - 1  # nowhere the most probable
    found = postprocess(with_stuff(none, absent, range(5)), config, categories)[0]
    assert 2 not in {s.label for s in found}
    assert torch.equal(torch.from_numpy(found.category_map()).long(), absent[0].argmax(0))


def test_the_semantic_head_weighs_the_score_of_a_thing() -> None:
    masks = torch.full((1, 2, 4, 4), -50.0)
    masks[0, 0, :2] = masks[0, 1, 3] = 50
    things = Proposals(torch.tensor([[0.5, 0.4]]), torch.tensor([[1, 1]]), masks)
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 1, 3] = 50  # sure of the class in the last row, undecided elsewhere
    plain = with_stuff(things, logits, (0,))
    weighed = with_stuff(things, logits, (0,), agreement=0.5)
    own = weighed.labels[0] == 1
    torch.testing.assert_close(weighed.scores[0, own], torch.tensor([0.4**0.5, (0.5 * 0.5) ** 0.5]))
    torch.testing.assert_close(weighed.mask_logits[0, own], masks[0, [1, 0]])  # sorted by the new score
    torch.testing.assert_close(plain.scores[plain.labels == 1], things.scores[0])
    torch.testing.assert_close(weighed.scores[weighed.labels == 0], plain.scores[plain.labels == 0])


def test_agreement_lies_between_0_and_1() -> None:
    with pytest.raises(ConfigError, match="between 0 and 1, not 2"):
        model_of(MIXED, agreement=2.0)


@pytest.mark.parametrize("categories", [MIXED, STUFF_ONLY], ids=["mixed", "stuff only"])
def test_the_rewritten_network_answers_as_the_plain_one(images: Tensor, categories: Categories) -> None:
    model = model_of(categories, agreement=0.5)
    assert not model.optimized().first_stay_first  # more of them lie among those there were
    plain, fast = model.predict(images), model.optimized().predict(images)
    torch.testing.assert_close(fast.scores, plain.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(fast.labels, plain.labels, rtol=0, atol=0)
    scale = float(plain.mask_logits.abs().max())
    torch.testing.assert_close(fast.mask_logits, plain.mask_logits, rtol=0, atol=1e-5 * scale)


def test_the_network_must_know_which_classes_are_stuff() -> None:
    with pytest.raises(ConfigError, match="categories"):
        create_model("maskconver_mobile_256", num_classes=5, stuff="semantic")


def test_without_the_option_there_is_no_such_head() -> None:
    model = trained_looking("maskconver_mobile_256", num_classes=None, categories=MIXED)
    assert not [key for key in model.state_dict() if key.startswith("semantic")]
    assert model(torch.zeros(1, 3, 64, 64)).semantic_logits is None
