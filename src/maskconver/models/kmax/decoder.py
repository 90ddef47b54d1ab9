"""The k-means transformer decoder of kMaX-DeepLab (arXiv 2207.04044, §3).

Queries are B×C×1×N, a map of one row, so that the 1×1 convolutions and batch norms of pixels serve them too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import DropPath, batch_norm, full_precision
from .axial import HEADS, conv_norm, linear_norm
from .gate import MaskGate, Prediction

DIM, MASK_DIM, FFN, KEYS = 256, 128, 2048, 128
VOID_PRIOR = 0.9  # share of queries that start as "no object"
NORM_EPS = 1e-12


class Predictor(nn.Module):
    """Classes and masks of the queries.

        F = normalised pixel head(pixels);   M = BN_1(F · mask kernel(query))

    Args:
        inp: channels of the pixels.
        num_classes: K, without "no object".
        momentum: of the batch norms.
    """

    def __init__(self, inp: int, num_classes: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.pixel0 = conv_norm(inp, inp, 5, groups=inp, momentum=momentum)
        nn.init.xavier_uniform_(self.pixel0.conv.weight)
        self.pixel1 = conv_norm(inp, DIM, momentum=momentum)
        self.pixel2 = conv_norm(DIM, MASK_DIM, bias=True, momentum=momentum, activation=None)
        self.mask_kernel = linear_norm(DIM, MASK_DIM, momentum)
        self.class_head = nn.Conv2d(DIM, num_classes + 1, 1)
        for conv in (self.pixel2.conv, self.class_head):
            nn.init.trunc_normal_(conv.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.mask_bn = batch_norm(1, momentum)
        self.void_bias = math.log(num_classes * VOID_PRIOR / (1 - VOID_PRIOR))

    def forward(
        self, mask_embedding: Tensor, class_embedding: Tensor, pixels: Tensor, *, with_classes: bool = True
    ) -> Prediction:
        """Two B×256×1×N embeddings and B×inp×h×w pixels to a prediction.

        Args:
            mask_embedding, class_embedding: of the queries.
            pixels: the map the masks are drawn on.
            with_classes: false leaves the class logits out, which only the last output and losses need.
        """
        feature = self.pixel2(self.pixel1(self.pixel0(pixels)))
        kernel = self.mask_kernel(mask_embedding).squeeze(2)
        with full_precision(pixels.device.type):  # the assignment follows from small differences
            unit = F.normalize(feature.float(), dim=1, eps=NORM_EPS)
            product = torch.einsum("bdhw,bdn->bnhw", unit, kernel.float())
            n, h, w = product.shape[1:]
            masks = self.mask_bn(product.to(self.mask_bn.weight.dtype).view(-1, 1, n * h, w)).view(
                -1, n, h, w
            )
        return Prediction(
            self.classify(class_embedding) if with_classes else None, masks, unit.to(feature.dtype)
        )

    def classify(self, class_embedding: Tensor) -> Tensor:
        """B×256×1×N to B×N×(K+1); a constant makes "no object" the first guess of every query."""
        logits = self.class_head(class_embedding).squeeze(2).transpose(1, 2)
        return torch.cat([logits[..., :-1], logits[..., -1:] + self.void_bias], -1)


class QueryAttention(nn.Module):
    """Self-attention of the queries, batch norms on similarities and results instead of a scale.

    Args:
        keys, values: channels, all heads together.
        momentum: of the batch norms.
    """

    def __init__(self, keys: int = KEYS, values: int = DIM, momentum: float = 0.01) -> None:
        super().__init__()
        self.sizes = [keys, keys, values]
        self.similarity_bn, self.value_bn = batch_norm(HEADS, momentum), batch_norm(values, momentum)

    def forward(self, qkv: Tensor) -> Tensor:
        """B×(2·keys+values)×1×N to B×values×1×N, activated."""
        q, k, v = (part.unflatten(1, (HEADS, -1)) for part in qkv.squeeze(2).split(self.sizes, 1))
        similarity = self.similarity_bn(q.transpose(2, 3) @ k)
        weights = similarity.softmax(-1, dtype=torch.float32).to(v.dtype)
        return F.gelu(self.value_bn((v @ weights.transpose(2, 3)).flatten(1, 2).unsqueeze(2)))


class KMeansLayer(nn.Module):
    """One step of k-means: pixels join the query whose mask is largest there, queries take their sum.

        P = GELU(BN(conv(GELU(y))));  C = GELU(BN(conv(q)));  V = BN(conv(P));  M = masks of (C, P)
        Z = one_hot(argmax over queries of M);   q1 = q + BN(conv(BN(Σ_pixels Z V)))
        q2 = GELU(q1 + BN(conv(attention(C))));  q3 = GELU(q2 + FFN(q2))

    Args:
        inp: channels of the pixel decoder's stage y.
        num_classes: K.
        drop: stochastic depth of the three branches.
        momentum: of the batch norms.
        gate: relaxes the masks that pixels join by (`remask_at_test`); None for the masks themselves.
    """

    def __init__(
        self,
        inp: int,
        num_classes: int,
        drop: float = 0.0,
        *,
        momentum: float = 0.01,
        gate: MaskGate | None = None,
    ) -> None:
        super().__init__()
        self.gate = gate
        self.pixel = conv_norm(inp, DIM, momentum=momentum)
        self.query = conv_norm(DIM, DIM, momentum=momentum)
        self.value = linear_norm(DIM, DIM, momentum)
        self.predictor = Predictor(DIM, num_classes, momentum)
        self.kmeans_bn = batch_norm(DIM, momentum)
        self.kmeans_out = linear_norm(DIM, DIM, momentum, zero=True)
        self.qkv = linear_norm(DIM, 2 * KEYS + DIM, momentum)
        self.attention = QueryAttention(momentum=momentum)
        self.attention_out = linear_norm(DIM, DIM, momentum, zero=True)
        self.ffn1 = conv_norm(DIM, FFN, momentum=momentum)
        self.ffn2 = linear_norm(FFN, DIM, momentum, zero=True)
        self.drop = DropPath(drop)
        std = DIM**-0.5
        for layer in (self.value, self.qkv):
            nn.init.trunc_normal_(layer.conv.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, stage: Tensor, queries: Tensor, with_classes: bool = True) -> tuple[Tensor, Prediction]:
        """B×inp×h×w and queries B×256×1×N to the next queries, and what the present ones predict."""
        pixels, centers = self.pixel(F.gelu(stage)), self.query(queries)
        prediction = self.predictor(
            centers, centers, pixels, with_classes=with_classes or self.gate is not None
        )
        masks = prediction.mask_logits
        if with_classes:
            prediction = prediction._replace(key=pixels)
        if self.gate is not None:
            semantic = self.gate.semantic_logits(prediction, pixels)
            prediction = prediction._replace(semantic_logits=semantic)
            masks = self.gate(prediction, semantic)
        update = self.kmeans_out(self.kmeans_update(masks, self.value(pixels)))
        queries = queries + self.drop(update)
        queries = F.gelu(queries + self.drop(self.attention_out(self.attention(self.qkv(centers)))))
        return F.gelu(queries + self.drop(self.ffn2(self.ffn1(queries)))), prediction

    def kmeans_update(self, mask_logits: Tensor, values: Tensor) -> Tensor:
        """BN of the sum of each query's pixels: B×N×h×w and B×256×h×w to B×256×1×N.

        A sum, not a mean, over thousands of pixels: in float32. A pixel goes to the first of equal queries;
        no gradient passes the assignment.
        """
        number = mask_logits.shape[1]
        with full_precision(values.device.type):
            owner = mask_logits.detach().argmax(1).flatten(1)
            members = F.one_hot(owner, number).float()
            total = values.flatten(2).float() @ members
            return self.kmeans_bn(total.unsqueeze(2).to(self.kmeans_bn.weight.dtype)).to(values.dtype)


class KMeansDecoder(nn.Module):
    """Learned cluster centres, k-means layers on the three coarsest stages, and the final predictor.

    Args:
        stages: channels of the pixel decoder's stages, coarsest first.
        depths: layers on each of the three coarsest.
        queries: N.
        num_classes: K.
        drop: stochastic depth of the layers' branches.
        momentum: of the batch norms.
        gates: of the first layers, where masks are relaxed at inference too.
    """

    def __init__(
        self,
        stages: Sequence[int],
        depths: Sequence[int],
        queries: int,
        *,
        num_classes: int,
        drop: float = 0.0,
        momentum: float = 0.01,
        gates: Sequence[MaskGate] = (),
    ) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.empty(DIM, queries))
        nn.init.trunc_normal_(self.centers)
        self.places = [i for i, depth in enumerate(depths) for _ in range(depth)]
        self.layers = nn.ModuleList(
            KMeansLayer(
                stages[place],
                num_classes,
                drop,
                momentum=momentum,
                gate=gates[i] if i < len(gates) else None,
            )
            for i, place in enumerate(self.places)
        )
        self.class_projection = conv_norm(DIM, DIM, momentum=momentum)
        self.mask_projection = conv_norm(DIM, DIM, momentum=momentum)
        self.predictor = Predictor(stages[-1], num_classes, momentum)

    def forward(
        self, stages: Sequence[Tensor], deep: bool = True
    ) -> tuple[Prediction, tuple[Prediction, ...]]:
        """The final prediction and those of every layer.

        Args:
            stages: B×C×h×w outputs of the pixel decoder, coarsest first.
            deep: the layers' class logits too, which the final prediction does not need.
        """
        queries = self.centers[None, :, None].expand(len(stages[0]), -1, -1, -1)
        predictions = []
        for place, layer in zip(self.places, self.layers):
            queries, prediction = layer(stages[place], queries, deep)
            predictions.append(prediction)
        final = self.predictor(self.mask_projection(queries), self.class_projection(queries), stages[-1])
        return final, tuple(predictions)
