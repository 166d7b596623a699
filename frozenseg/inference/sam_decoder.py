"""SAM's mask decoder for many single-point prompts on one image: segment-anything's weights, a shorter computation.

What is the same for every point is computed once per image: in the first layer of the two-way transformer the image
tokens are still the encoder's, so their projections are shared. Later layers never project image tokens at all: a
projection is moved to the 7 prompt tokens instead (q (K W)' = (q W') K'), which is the same number at less than half
the work; constants that a softmax cancels are left out. The upscaling's transposed convolutions don't overlap (kernel
2, stride 2), so they are matrix products, channels last, and only run for points with a mask that is still wanted. The
single-mask output, which a grid of points discards, is never made.

Shape legend: P points, T = 1 + masks + 2 prompt tokens, C channels, d inner channels, M heads, n = h w image tokens,
R = M T rows (head, token), O masks per point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True, eq=False)
class PointPredictions:
    """What the transformer says about P points, before any mask is drawn. image_tokens [P,n,C]; hyper [P,O,c];
    predicted_iou [P,O]."""

    image_tokens: Tensor
    hyper: Tensor
    predicted_iou: Tensor


class PointDecoder:
    """Decoder of one image.

    Args:
        sam: its prompt encoder and mask decoder are used; weights are read in place.
        embedding: [C,h,w], the image encoder's output.
        dtype: of the arithmetic on image tokens. float32 equals segment-anything to rounding.
    """

    def __init__(self, sam: Sam, embedding: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self._prompts: Any = sam.prompt_encoder
        self._decoder: Any = sam.mask_decoder
        self._dtype = dtype
        self.grid_size: tuple[int, int] = (int(embedding.shape[-2]), int(embedding.shape[-1]))
        position = self._prompts.get_dense_pe()[0].flatten(1).t()
        no_mask = self._prompts.no_mask_embed.weight
        self._position = position.to(dtype).contiguous()  # [n,C]
        first = embedding.flatten(1).t().to(no_mask.dtype) + no_mask
        layer = self._decoder.transformer.layers[0]
        to_image, to_token = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        with_position = first + position
        self._first_keys = _split_heads(to_image.k_proj(with_position), to_image.num_heads).to(dtype)  # [M,n,d/M]
        self._first_values = _split_heads(to_image.v_proj(first), to_image.num_heads).to(dtype)
        self._first_queries = _split_heads(to_token.q_proj(with_position), to_token.num_heads).to(dtype)
        self._first_residual = (first + to_token.out_proj.bias).to(dtype)  # [n,C]
        self._upscaling = _Upscaling(self._decoder.output_upscaling, self.grid_size, dtype)

    def points(self, coordinates: Tensor) -> PointPredictions:
        """coordinates [P,2] (x, y) in pixels of SAM's square input; every point is a foreground click."""
        labels = torch.ones(len(coordinates), 1, device=coordinates.device)
        prompts, _ = self._prompts(points=(coordinates[:, None], labels), boxes=None, masks=None)
        decoder = self._decoder
        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        point_tokens = torch.cat([output_tokens.expand(len(coordinates), -1, -1), prompts], dim=1)
        tokens, image_tokens = self._transform(point_tokens)
        # Index 0 is the predicted IoU's token, 1 the single mask's, the rest the multimask outputs'.
        networks = decoder.output_hypernetworks_mlps
        hyper = torch.stack([networks[i](tokens[:, 1 + i]) for i in range(1, decoder.num_mask_tokens)], dim=1)
        return PointPredictions(image_tokens, hyper, decoder.iou_prediction_head(tokens[:, 0])[:, 1:])

    def mask_logits(self, image_tokens: Tensor, hyper: Tensor) -> Tensor:
        """[P,n,C], [P,O,c] -> [P,O,4h,4w] float32."""
        return self._upscaling(image_tokens, hyper)

    def _transform(self, point_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[P,T,C] -> tokens [P,T,C], image tokens [P,n,C]."""
        transformer = self._decoder.transformer
        tokens, image = self._first_layer(transformer.layers[0], point_tokens)
        for layer in list(transformer.layers)[1:]:
            tokens = _self_attention(layer, tokens, point_tokens)
            with_position = image + self._position
            attended = _read_image(layer.cross_attn_token_to_image, tokens + point_tokens, with_position, image)
            tokens = _feed_forward(layer, layer.norm2(tokens + attended))
            attention = layer.cross_attn_image_to_token
            weights = _query_image(attention, tokens + point_tokens, with_position)
            residual = image + attention.out_proj.bias.to(image.dtype)
            image = _write_image(attention, layer.norm4, tokens, weights, residual)
        attended = _read_image(
            transformer.final_attn_token_to_image, tokens + point_tokens, image + self._position, image
        )
        return transformer.norm_final_attn(tokens + attended), image

    def _first_layer(self, layer: Any, point_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """All points read the same image tokens: products with them are one large multiplication per head."""
        num_points, num_tokens = point_tokens.shape[:2]
        tokens = _self_attention(layer, point_tokens, point_tokens)
        attention = layer.cross_attn_token_to_image
        queries = _split_heads(attention.q_proj(tokens + point_tokens), attention.num_heads)  # [P,M,T,d/M]
        rows = queries.transpose(0, 1).flatten(1, 2).to(self._dtype)  # [M,P T,d/M]
        scale = rows.shape[-1] ** -0.5
        attended = (rows @ (self._first_keys.transpose(1, 2) * scale)).softmax(dim=-1) @ self._first_values
        attended = _unflatten(attended, 1, (num_points, num_tokens)).permute(1, 2, 0, 3).flatten(2)
        tokens = layer.norm2(tokens + attention.out_proj(attended.to(tokens.dtype)))
        tokens = _feed_forward(layer, tokens)
        attention = layer.cross_attn_image_to_token
        keys = _split_heads(attention.k_proj(tokens + point_tokens), attention.num_heads).to(self._dtype)
        rows = (keys * scale).transpose(0, 1).flatten(1, 2)  # [M,P T,d/M]
        scores = rows @ self._first_queries.transpose(1, 2)
        scores = _unflatten(scores, 1, (num_points, num_tokens))  # [M,P,T,n]
        weights = scores.softmax(dim=2).transpose(0, 1).flatten(1, 2)
        return tokens, _write_image(attention, layer.norm4, tokens, weights, self._first_residual)


def _unflatten(x: Any, dim: int, sizes: tuple[int, ...]) -> Tensor:
    """`Tensor.unflatten`, which torch leaves untyped."""
    result: Tensor = x.unflatten(dim, sizes)
    return result


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """[...,t,d] -> [...,M,t,d/M]."""
    return _unflatten(x, -1, (heads, -1)).transpose(-3, -2)


def _self_attention(layer: Any, tokens: Tensor, point_tokens: Tensor) -> Tensor:
    attention = layer.self_attn
    if layer.skip_first_layer_pe:
        tokens = attention(q=tokens, k=tokens, v=tokens)
    else:
        with_position = tokens + point_tokens
        tokens = tokens + attention(q=with_position, k=with_position, v=tokens)
    result: Tensor = layer.norm1(tokens)
    return result


def _feed_forward(layer: Any, tokens: Tensor) -> Tensor:
    result: Tensor = layer.norm3(tokens + layer.mlp(tokens))
    return result


def _read_image(attention: Any, queries: Tensor, with_position: Tensor, image: Tensor) -> Tensor:
    """Tokens attend to image tokens: queries [P,T,C], with_position and image [P,n,C] -> [P,T,C].

    The key projection's bias adds the same to a whole row of scores, which the softmax cancels.
    """
    heads = attention.num_heads
    split = _split_heads(attention.q_proj(queries), heads)  # [P,M,T,d/M]
    key_weight = _unflatten(attention.k_proj.weight, 0, (heads, -1))  # [M,d/M,C]
    folded = (split * split.shape[-1] ** -0.5) @ key_weight  # [P,M,T,C]
    weights = (folded.flatten(1, 2).to(image.dtype) @ with_position.transpose(1, 2)).softmax(dim=-1)  # [P,R,n]
    mean = _unflatten((weights @ image).to(queries.dtype), 1, (heads, -1))  # [P,M,T,C]
    value_weight = _unflatten(attention.v_proj.weight, 0, (heads, -1))
    value_bias = _unflatten(attention.v_proj.bias, 0, (heads, 1, -1))
    attended = mean @ value_weight.transpose(1, 2) + value_bias  # [P,M,T,d/M]
    result: Tensor = attention.out_proj(attended.transpose(1, 2).flatten(2))
    return result


def _query_image(attention: Any, tokens: Tensor, with_position: Tensor) -> Tensor:
    """Image tokens attend to prompt tokens: their weights [P,R,n], softmax over the tokens of each head."""
    heads = attention.num_heads
    keys = _split_heads(attention.k_proj(tokens), heads)  # [P,M,T,d/M]
    keys = keys * keys.shape[-1] ** -0.5
    folded = (keys @ _unflatten(attention.q_proj.weight, 0, (heads, -1))).flatten(1, 2)  # [P,R,C]
    bias = (keys @ _unflatten(attention.q_proj.bias, 0, (heads, -1, 1))).flatten(1, 2)  # [P,R,1]
    dtype = with_position.dtype
    scores = torch.baddbmm(bias.to(dtype), folded.to(dtype), with_position.transpose(1, 2))
    return _unflatten(scores, 1, (heads, -1)).softmax(dim=2).flatten(1, 2)


def _write_image(attention: Any, norm: Any, tokens: Tensor, weights: Tensor, residual: Tensor) -> Tensor:
    """Image tokens after they attended to the prompt tokens: weights [P,R,n], residual [n,C] or [P,n,C] with the output
    projection's bias in it. The output projection is moved to the values: [P,R,C] for [P,n,d]."""
    heads = attention.num_heads
    values = _split_heads(attention.v_proj(tokens), heads)  # [P,M,T,d/M]
    out_weight = _unflatten(attention.out_proj.weight.t(), 0, (heads, -1))  # [M,d/M,C]
    folded = (values @ out_weight).flatten(1, 2).to(residual.dtype)  # [P,R,C]
    image = torch.baddbmm(residual, weights.transpose(1, 2), folded)
    return F.layer_norm(image, norm.normalized_shape, norm.weight.to(image.dtype), norm.bias.to(image.dtype), norm.eps)


class _Upscaling:
    """The mask decoder's two transposed convolutions as matrix products on channels-last tokens."""

    def __init__(self, layers: Any, grid_size: tuple[int, int], dtype: torch.dtype) -> None:
        first, norm, activation, second, last_activation = layers
        self._grid_size = grid_size
        self._activations = (activation, last_activation)
        self._first = (_as_matrix(first.weight).to(dtype), first.bias.repeat(4).to(dtype))
        self._second = (_as_matrix(second.weight).to(dtype), second.bias.repeat(4).to(dtype))
        self._norm = (norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)
        self._pixel_order = _pixel_order(grid_size).to(first.weight.device)

    def __call__(self, image_tokens: Tensor, hyper: Tensor) -> Tensor:
        """[P,n,C], [P,O,c] -> [P,O,4h,4w] float32."""
        num_points, (height, width) = len(image_tokens), self._grid_size
        weight, bias = self._first
        x = _unflatten(torch.addmm(bias, image_tokens.flatten(0, 1), weight), 1, (4, -1))
        scale, shift, epsilon = self._norm
        x = self._activations[0](F.layer_norm(x, scale.shape, scale, shift, epsilon))
        weight, bias = self._second
        x = self._activations[1](torch.addmm(bias, x.flatten(0, 1), weight))
        x = x.view(num_points, self._pixel_order.numel(), hyper.shape[-1])  # [P, h w 2 2 2 2, c]; P may be 0
        masks = torch.bmm(hyper.to(x.dtype), x.transpose(1, 2)).float()
        masks = masks.flatten(0, 1).index_select(1, self._pixel_order)
        return masks.view(num_points, hyper.shape[1], 4 * height, 4 * width)


def _pixel_order(grid_size: tuple[int, int]) -> Tensor:
    """[16 h w] int64: where each pixel of the 4h x 4w mask lies in the products' order (token, block, pixel)."""
    height, width = grid_size
    produced = torch.arange(16 * height * width).view(height, width, 2, 2, 2, 2)
    return produced.permute(0, 2, 4, 1, 3, 5).flatten()


def _as_matrix(weight: Tensor) -> Tensor:
    """[C,c,2,2] of a transposed convolution -> [C, 2 2 c]."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1).contiguous()
