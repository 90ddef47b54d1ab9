"""kMaX-DeepLab as inference needs it: the same answers from less arithmetic.

Batch norms go into the convolutions before them, those on similarities and attended values into queries,
keys and values. Inside the k-means layers only the owner of each pixel matters: neither length of the pixel
feature nor the norm of the masks changes it; and the values are a linear map of the pixels, so it is applied
to each query's sum instead of to every pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.proposals import Proposals
from ..layers import full_precision
from ..optimize import InferenceModel, folded
from ..topk import TopK, stable_topk
from .axial import HEADS, AxialAttention, AxialAttention2d, relative_rows
from .decoder import NORM_EPS, KMeansDecoder, KMeansLayer, Predictor
from .gate import Prediction
from .model import KMaXDeepLab, best_queries


class InferenceKMaX(InferenceModel):
    """kMaX-DeepLab without predictions of the layers and without semantic head.

    Args:
        model: what it is made from.
        topk: how queries are ranked.
    """

    def __init__(self, model: KMaXDeepLab, topk: TopK = stable_topk) -> None:
        super().__init__(model, topk)
        network = folded(model, model.config.in_channels)
        for part in (network.backbone, network.pixel_decoder):
            for name, module in list(part.named_modules()):
                if isinstance(module, AxialAttention2d):
                    part.set_submodule(name, InferenceAxialAttention2d(module))
        self.levels = network.levels
        self.backbone, self.pixel_decoder = network.backbone, network.pixel_decoder
        self.decoder = InferenceDecoder(network.decoder)
        self.eval()

    def forward(self, images: Tensor) -> Prediction:
        """Normalised images B×C×H×W float to the prediction that is the answer."""
        self.check_channels(images)
        features = self.backbone(images)
        prediction: Prediction = self.decoder(self.pixel_decoder([features[n] for n in self.levels]))
        return prediction

    @torch.no_grad()
    def predict(self, images: Tensor, proposals: int | None = None) -> Proposals:
        """See `KMaXDeepLab.predict`."""
        return best_queries(self(images), self.config.proposals, proposals, topk=self.topk)


def _affine(bn: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift that a batch norm applies in evaluation."""
    assert isinstance(bn, nn.BatchNorm2d) and bn.running_var is not None and bn.running_mean is not None
    scale = bn.weight * (bn.running_var + bn.eps).rsqrt()
    return scale, bn.bias - bn.running_mean * scale


def _bias(conv: nn.Conv2d) -> Tensor:
    """A convolution's bias, which it has from its folded batch norm."""
    assert conv.bias is not None
    return conv.bias


class InferenceAxialAttention2d(nn.Module):
    """`AxialAttention2d` on B×h×w×channels, so that either axis is one step away."""

    def __init__(self, attention: AxialAttention2d) -> None:
        super().__init__()
        self.stride = attention.stride
        self.height = InferenceAxialAttention(attention.height)
        self.width = InferenceAxialAttention(attention.width)

    def forward(self, x: Tensor) -> Tensor:
        """B×inp×h×w to B×values×⌈h/stride⌉×⌈w/stride⌉."""
        tokens = self.height(x.permute(0, 2, 3, 1))[:, :: self.stride]
        return self.width(tokens)[:, :, :: self.stride].permute(0, 3, 1, 2)


class InferenceAxialAttention(nn.Module):
    """`AxialAttention` without batch norms.

    The shift of the similarities is the same for every key, and a softmax does not see it. Weights sum to 1,
    so the shift of the results is added to the values.
    """

    query_table: Tensor
    key_table: Tensor
    value_table: Tensor
    similarity_scale: Tensor
    relative_scale: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, attention: AxialAttention) -> None:
        super().__init__()
        # B×h×w×channels to L×B×across×channels, and back
        self.order = (1, 0, 2, 3) if attention.axis == "height" else (2, 0, 1, 3)
        self.back = (1, 0, 2, 3) if attention.axis == "height" else (1, 2, 0, 3)
        self.sizes = [attention.keys, attention.keys, attention.values]
        for name in ("query_table", "key_table", "value_table"):
            self.register_buffer(name, getattr(attention, name).detach())
        similarity, _ = _affine(attention.similarity_bn)
        self.register_buffer("similarity_scale", similarity.view(3, HEADS, 1))
        scale, shift = (part.view(2, -1) for part in _affine(attention.output_bn))
        self.register_buffer("relative_scale", scale[1].view(HEADS, -1))
        conv, values = attention.qkv, slice(2 * attention.keys, None)
        weight, bias = conv.weight[:, :, 0, 0].clone(), _bias(conv).clone()
        weight[values] *= scale[0][:, None]
        bias[values] = bias[values] * scale[0] + shift.sum(0)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """B×h×w×inp to B×h×w×values."""
        tokens = F.linear(x, self.weight, self.bias).permute(self.order)
        length, batch, across, _ = tokens.shape
        q, k, v = (part.reshape(length, batch * across, HEADS, -1) for part in tokens.split(self.sizes, -1))
        rows = relative_rows(length, x.device)
        contents, to_query, to_key = self.similarity_scale.unbind()
        # Contents are multiplied for every line and head (`each`), distances for every position (`flatten`).
        logits = each(q * contents) @ each(k).transpose(1, 2)  # (lines·heads)×L×L
        of_queries = (q * to_query).flatten(1, 2) @ self.query_table[rows].transpose(1, 2)
        of_keys = (k * to_key).flatten(1, 2) @ self.key_table[rows].permute(1, 2, 0)
        logits = logits + of_queries.transpose(0, 1) + of_keys.permute(1, 2, 0)
        weights = logits.softmax(-1, dtype=torch.float32).to(v.dtype)
        relative = (weights.transpose(0, 1) @ self.value_table[rows]).unflatten(1, (-1, HEADS))
        out = (relative * self.relative_scale).flatten(1, 2) + (weights @ each(v)).transpose(0, 1)
        return out.reshape(length, batch, across, -1).permute(self.back)


def each(tokens: Tensor) -> Tensor:
    """L×lines×heads×depth to (lines·heads)×L×depth."""
    return tokens.flatten(1, 2).transpose(0, 1)


class InferenceKMeansLayer(nn.Module):
    """`KMeansLayer` that only updates the queries."""

    sum_scale: Tensor
    sum_shift: Tensor

    def __init__(self, layer: KMeansLayer) -> None:
        super().__init__()
        self.pixel, self.query, self.value = layer.pixel, layer.query, layer.value.conv
        self.pixel0, self.pixel1 = layer.predictor.pixel0, layer.predictor.pixel1
        self.pixel2, self.mask_kernel = layer.predictor.pixel2.conv, layer.predictor.mask_kernel
        sign = _affine(layer.predictor.mask_bn)[0].sign()
        self.mask_kernel.conv.weight *= sign
        _bias(self.mask_kernel.conv).mul_(sign)
        scale, shift = _affine(layer.kmeans_bn)
        self.register_buffer("sum_scale", scale[:, None])
        self.register_buffer("sum_shift", shift[:, None])
        self.kmeans_out, self.qkv, self.attention_out = layer.kmeans_out, layer.qkv, layer.attention_out
        self.sizes = layer.attention.sizes
        scale, _ = _affine(layer.attention.similarity_bn)
        keys = self.sizes[0]
        of_queries, of_values = slice(keys), slice(2 * keys, None)
        weight, bias = self.qkv.conv.weight, _bias(self.qkv.conv)
        per_query = scale.repeat_interleave(keys // HEADS)
        weight[of_queries] *= per_query[:, None, None, None]
        bias[of_queries] *= per_query
        scale, shift = _affine(layer.attention.value_bn)
        weight[of_values] *= scale[:, None, None, None]
        bias[of_values] = bias[of_values] * scale + shift
        self.ffn1, self.ffn2 = layer.ffn1, layer.ffn2

    def forward(self, stage: Tensor, queries: Tensor) -> Tensor:
        """B×inp×h×w and queries B×256×1×N to the next queries."""
        pixels, centers = self.pixel(F.gelu(stage)), self.query(queries)
        queries = queries + self.kmeans_out(self.kmeans_update(centers, pixels))
        queries = F.gelu(queries + self.attention_out(self.attend(self.qkv(centers))))
        return F.gelu(queries + self.ffn2(self.ffn1(queries)))

    def kmeans_update(self, centers: Tensor, pixels: Tensor) -> Tensor:
        """BN of the sum of each query's values: B×256×1×N and B×256×h×w to B×256×1×N."""
        feature = self.pixel1(self.pixel0(pixels)).flatten(2)
        kernel = self.mask_kernel(centers).squeeze(2)  # B×128×N
        weight, bias = self.pixel2.weight[:, :, 0, 0], _bias(self.pixel2)
        with full_precision(pixels.device.type):
            kernel = kernel.float().transpose(1, 2)
            # Times a column: a product with the vector is miscalculated by ONNX Runtime 1.31.
            owner = torch.baddbmm(kernel @ bias[:, None], kernel @ weight, feature.float()).argmax(1)
            members = F.one_hot(owner, kernel.shape[1]).float()
            total = pixels.flatten(2).float() @ members
            values = self.value.weight[:, :, 0, 0] @ total + _bias(self.value)[:, None] * members.sum(1, True)
            return torch.addcmul(self.sum_shift, values, self.sum_scale).to(pixels.dtype)[:, :, None]

    def attend(self, qkv: Tensor) -> Tensor:
        """B×(2·keys+values)×1×N to B×values×1×N, activated."""
        q, k, v = (part.unflatten(1, (HEADS, -1)) for part in qkv.squeeze(2).split(self.sizes, 1))
        weights = (q.transpose(2, 3) @ k).softmax(-1, dtype=torch.float32).to(v.dtype)
        return F.gelu((v @ weights.transpose(2, 3)).flatten(1, 2).unsqueeze(2))


class InferencePredictor(nn.Module):
    """`Predictor` of the answer, the norm of the masks in their kernels."""

    scale: Tensor
    shift: Tensor

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.pixel0, self.pixel1, self.pixel2 = predictor.pixel0, predictor.pixel1, predictor.pixel2
        self.mask_kernel, self.classify = predictor.mask_kernel, predictor.classify
        self.class_head = predictor.class_head
        scale, shift = _affine(predictor.mask_bn)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, mask_embedding: Tensor, class_embedding: Tensor, pixels: Tensor) -> Prediction:
        """See `Predictor.forward`."""
        feature = self.pixel2(self.pixel1(self.pixel0(pixels)))
        kernel = self.mask_kernel(mask_embedding).squeeze(2)
        with full_precision(pixels.device.type):
            unit = F.normalize(feature.float(), dim=1, eps=NORM_EPS)
            kernel = (kernel.float() * self.scale).transpose(1, 2)
            masks = (kernel @ unit.flatten(2) + self.shift).unflatten(2, feature.shape[2:])
        return Prediction(self.classify(class_embedding), masks, unit)


class InferenceDecoder(nn.Module):
    """`KMeansDecoder` that gives the final prediction alone."""

    centers: Tensor

    def __init__(self, decoder: KMeansDecoder) -> None:
        super().__init__()
        self.register_buffer("centers", decoder.centers.detach())
        self.places = decoder.places
        # Relaxed masks (`remask_at_test`) need all that a layer predicts.
        self.layers = nn.ModuleList(
            InferenceKMeansLayer(layer) if layer.gate is None else layer for layer in decoder.layers
        )
        self.class_projection, self.mask_projection = decoder.class_projection, decoder.mask_projection
        self.predictor = InferencePredictor(decoder.predictor)

    def forward(self, stages: Sequence[Tensor]) -> Prediction:
        """B×C×h×w outputs of the pixel decoder, coarsest first, to the final prediction."""
        queries = self.centers[None, :, None].expand(len(stages[0]), -1, -1, -1)
        for place, layer in zip(self.places, self.layers):
            if isinstance(layer, KMeansLayer):
                queries, _ = layer(stages[place], queries, False)
            else:
                queries = layer(stages[place], queries)
        prediction: Prediction = self.predictor(
            self.mask_projection(queries), self.class_projection(queries), stages[-1]
        )
        return prediction
