"""Post-processing as a part of the network: files that answer with a panoptic map or scores of classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.categories import Categories
from ..core.config import PostprocessConfig
from ..core.resize import Taps
from ..merge.reference import SIXTH

BAND_VALUES = 1 << 20  # interpolated values held at a time, 4 MB
BANDS = 16  # at most: every band is a copy of the same operators in the file
SUPPRESSIONS = 64  # longest chain of proposals, each the duplicate of the one before, that is told apart


class PanopticMerge(nn.Module):
    """The rule of `merge.maskconver.merge_masks` for one image, with nothing but operators of fixed shapes.

    Every pixel of the network input is decided, padding too. Like `PlainCompetition` it goes through the rows
    in bands, the proposals of a pixel side by side, so that N×H×W at full size never exists.

    Args:
        config: the thresholds.
        categories: the label set.
        mask_size: (h, w) of the mask logits.
        size: (H, W) of the answer.
    """

    is_thing: Tensor
    low_y: Tensor
    high_y: Tensor
    weight_y: Tensor
    low_x: Tensor
    high_x: Tensor
    weight_x: Tensor

    def __init__(
        self,
        config: PostprocessConfig,
        categories: Categories,
        mask_size: tuple[int, int],
        size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.config, self.size = config, size
        self.smallest = config.smallest_area(*size)
        self.register_buffer("is_thing", torch.from_numpy(categories.is_thing))
        for axis, length, target in zip("yx", mask_size, size):
            taps = Taps.resize(length, target)
            for name in ("low", "high", "weight"):
                self.register_buffer(f"{name}_{axis}", torch.from_numpy(getattr(taps, name)))

    def forward(self, scores: Tensor, labels: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The proposals of one image to its map.

        Args:
            scores: 1×N float32, highest first.
            labels: 1×N int64 in 0…C-1.
            mask_logits: 1×N×h×w float32.

        Returns:
            `ids` 1×H×W int32, 0 = void; `segments` 1×N×3 int32, in each row the id, label and area in pixels
            of a segment, best first, then rows (0, -1, 0); `scores` 1×N float32 of the segments, then 0.
            With `fill_label` there is a row more.
        """
        score, label, logits = scores[0], labels[0], mask_logits[0]
        if self.config.fill_only and self.config.fill_label is not None:
            score = score.masked_fill(label.eq(self.config.fill_label), 0.0)
        if self.config.maskness:  # see `merge.maskconver.with_maskness`
            inside = (logits > 0).float()
            total = (((-logits).exp() + 1).reciprocal() * inside).sum((1, 2))
            score = score * (total / inside.sum((1, 2)).clamp(min=1)).pow(self.config.maskness)
            score, order = score.topk(len(score))
            label, logits = label[order], logits[order]
        candidate = score > self.config.score_threshold
        if self.config.nms_iou < 1:
            candidate = candidate & self._distinct(candidate, label, logits.flatten(1))
        lines = self._columns(logits.permute(1, 2, 0))
        weight = score if self.config.class_exponent == 1 else score.pow(self.config.class_exponent)
        winner, own_area, visible = self._compete(lines, weight.where(candidate, -1.0))
        kept = candidate & (visible > self.smallest) & (own_area > 0)
        kept = kept & (visible > self.config.overlap_threshold * own_area)
        if self.config.reassign:
            winner, _, visible = self._compete(lines, weight.where(kept, -1.0))
        number, first = self._segments(label, kept)
        # One more for the pixels that nobody wins.
        ids = torch.cat([number, number.new_zeros(1)]).to(torch.int32)[winner]
        rows = torch.arange(1, len(score) + 1)[:, None]
        best = ((rows == number) & first).float()  # one row per segment: which proposal names it
        exists = best.sum(1)
        areas = ((rows == number) * visible).sum(1)
        names = (best * label).sum(1) + exists - 1
        table = torch.stack([rows[:, 0] * exists, names, areas], 1).to(torch.int32)
        sure = (best * score).sum(1)
        if self.config.fill_label is not None:
            ids, table, sure = self._filled(ids, table, sure, self.config.fill_label)
        return ids[None], table[None], sure[None]

    def _filled(
        self, ids: Tensor, table: Tensor, scores: Tensor, label: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `merge._filled`: void goes to the segment of a stuff label, a new one where there is none."""
        void = ids == 0
        area = void.float().sum().to(torch.int32)
        own = (table[:, 1] == label).to(torch.int32)  # a row at most, as all stuff of a class is one segment
        there = (own * table[:, 0]).sum()
        count = (table[:, 0] > 0).to(torch.int32).sum().to(torch.int32)
        new = ((there == 0) & (area > 0)).to(torch.int32)
        ids = torch.where(void, torch.where(there > 0, there.to(torch.int32), count + 1), ids)
        table = table + torch.stack([own * 0, own * 0, own * area], 1)
        last = table.new_tensor([[0, -1, 0]])
        table = torch.cat([table, last])
        at = (torch.arange(len(table)) == count).to(torch.int32)[:, None] * new
        row = torch.stack([count + 1, torch.full_like(count, label + 1), area])[None]
        return ids, table + at * row, torch.cat([scores, scores.new_zeros(1)])

    def _columns(self, logits: Tensor) -> Tensor:
        """h×w×N to h×W×N."""
        low, high = logits.index_select(1, self.low_x), logits.index_select(1, self.high_x)
        return low + (high - low) * self.weight_x[:, None]

    def _compete(self, lines: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Who wins each pixel: see `PlainCompetition`.

        Args:
            lines: h×W×N logits.
            scores: (N,), -1 of proposals that do not compete.

        Returns:
            H×W int64 winner, N where there is none; (N,) float32 pixels above 0.5 and pixels won of each.
        """
        count, (height, width) = len(scores), self.size
        band = max(BAND_VALUES // (width * count), -(-height // BANDS))
        winners, own_area = [], scores.new_zeros(count)
        for top in range(0, height, band):
            part = slice(top, top + band)
            low, high = (lines.index_select(0, at[part]) for at in (self.low_y, self.high_y))
            masks = low + (high - low) * self.weight_y[part, None, None]
            if self.config.hard_sigmoid:
                masks = (masks + 3).clamp(0, 6) * SIXTH
            else:  # ONNX Runtime's sigmoid is one number below -18, where masks still compete
                masks = ((-masks).exp() + 1).reciprocal()
            own_area = own_area + (masks > 0.5).float().sum((0, 1))
            bids = masks * scores
            if self.config.mask_threshold:
                bids = bids.where(masks > self.config.mask_threshold, 0.0)
                best, winner = bids.max(-1)
                winner = winner.where(best > 0, count)
            else:
                winner = bids.argmax(-1)
            winners.append(winner)
        winner = torch.cat(winners)
        return winner, own_area, _counts(winner.flatten(), count + 1)[:-1]

    def _segments(self, labels: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) float32 segment of every proposal, 0 = none; (N,) bool, the best of each segment.

        Every kept thing is a segment, and all kept stuff of one class together.
        """
        earlier = torch.ones(len(labels), len(labels)).tril(-1)
        stuff = ~self.is_thing[labels]
        together = (labels[:, None] == labels) & stuff & kept & kept[:, None]
        first = kept & ((together * earlier).sum(1) < 0.5)
        rank = (earlier * first).sum(1) + 1
        # What is no first has the number of the one first among those it goes together with.
        number = (together * (first * rank)).sum(1).where(stuff, rank)
        return number.where(kept, 0.0), first

    def _distinct(self, candidate: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """(N,) bool: which overlap no better kept one of their label above `nms_iou`.

        As `merge.maskconver._distinct`.

        A proposal is kept if none of those it clashes with is. That settles the best ones in the first
        round, those that depend on them in the next, and so on.
        """
        inside = (logits > 0).float()
        areas = inside.sum(1)
        shared = inside @ inside.T
        union = areas[:, None] + areas - shared
        clash = (shared > self.config.nms_iou * union) & (labels[:, None] == labels) & candidate
        better = clash.float().tril(-1)
        kept = torch.ones_like(areas)
        for _ in range(min(SUPPRESSIONS, len(labels) - 1)):
            kept = (1 - better @ kept).relu()
        return kept > 0.5


class PanopticNetwork(nn.Module):
    """A network up to its proposals, and the merge."""

    def __init__(self, network: nn.Module, postprocess: PanopticMerge) -> None:
        super().__init__()
        self.network, self.postprocess = network, postprocess

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images as the network takes them to `PanopticMerge`'s answer."""
        answer: tuple[Tensor, Tensor, Tensor] = self.postprocess(*self.network(images))
        return answer


class SemanticNetwork(nn.Module):
    """A network up to its proposals, and the score of every class at every pixel of its masks."""

    def __init__(self, network: nn.Module, num_classes: int, exponent: float = 1.0) -> None:
        super().__init__()
        self.network, self.num_classes, self.exponent = network, num_classes, exponent

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Images as the network takes them to B×C×h×w scores, as of `merge.semantic.semantic_scores`."""
        scores, labels, masks = self.network(images)
        weights = scores if self.exponent == 1 else scores.pow(self.exponent)
        classes = (labels[:, None] == torch.arange(self.num_classes)[:, None]) * weights[:, None]
        values = classes @ masks.sigmoid().flatten(2)
        return (values.unflatten(2, masks.shape[2:]),)


def _counts(values: Tensor, n: int) -> Tensor:
    """(n,) float32: how often each of 0…n-1 occurs among the values (P,) int64; exact up to 2²⁴.

    LiteRT has no histogram and no scattered sum. Two digits of base 16 need 16 + n/16 comparisons a value.
    """
    high, low = values.div(16, rounding_mode="floor"), values % 16
    highs = (high[:, None] == torch.arange(-(-n // 16))).float()
    lows = (low[:, None] == torch.arange(16)).float()
    return (highs.T @ lows).flatten()[:n]
