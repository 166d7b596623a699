"""Masked-attention transformer decoder with the Query Injector and the Feature Injector.

Shape legend: B images, Q queries, C hidden width, K categories, H W padded pixels, h w a map's size.
Layers count from 0; layer i attends to the map at stride 32, 16, 8 for i mod 3 = 0, 1, 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from frozenseg.decoder.config import DecoderConfig
from frozenseg.decoder.layers import (
    AttentionBlock,
    FeedForward,
    Perceptron,
    flatten_map,
    map_size,
    open_blocked_rows,
)
from frozenseg.decoder.pixel_decoder import NUM_LEVELS, PixelFeatures
from frozenseg.ops import class_logits, mask_product, pool_masks, resize_bilinear, sine_position_embedding
from frozenseg.types import DecoderOutput, DecoderPrediction, Size, TextEmbeddings

_INITIAL_LOGIT_SCALE = math.log(1.0 / 0.07)
_LARGEST_SCALE = 100.0


class PooledProjection(nn.Module):
    """LayerNorm and a linear layer on mask-pooled features. CLIP's mask features and SAM's map share one."""

    def __init__(self, mask_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(mask_dim)
        self.linear = nn.Linear(mask_dim, dim)

    def forward(self, pooled: Tensor) -> Tensor:
        """[B,Q,mask_dim] to [B,Q,C]."""
        y: Tensor = self.linear(self.norm(pooled))
        return y


class PredictionHeads(nn.Module):
    """Masks and classes of queries, and the spatial query of the Query Injector."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.query_norm = nn.LayerNorm(dim)
        self.mask_embedding = Perceptron((dim, dim, dim, config.mask_dim))
        self.class_embedding = Perceptron((dim, dim, dim, config.embedding_dim))
        self.pooled_projection = PooledProjection(config.mask_dim, dim)
        self.logit_scale = nn.Parameter(torch.tensor(_INITIAL_LOGIT_SCALE))
        # The published weights have SAM maps as wide as the mask features; other widths need a step in between.
        needs_step = bool(config.query_injector_layers) and config.sam_channels != config.mask_dim
        self.sam_projection = nn.Linear(config.sam_channels, config.mask_dim) if needs_step else None

    def forward(self, queries: Tensor, mask_features: Tensor, text: TextEmbeddings, void: Tensor) -> DecoderPrediction:
        """queries [B,Q,C]; mask_features [B,mask_dim,H/4,W/4]; void [D], the learned row."""
        queries = self.query_norm(queries)
        masks = self._masks(queries, mask_features)
        pooled = self.pooled_projection(pool_masks(mask_features, masks).to(queries.dtype))
        embeddings = self.class_embedding(pooled + queries)
        scale = self.logit_scale.exp().clamp(max=_LARGEST_SCALE)
        logits = class_logits(embeddings, text.rows, text.row_category, scale, void)
        return DecoderPrediction(mask_logits=masks, class_logits=logits)

    def masks(self, queries: Tensor, mask_features: Tensor) -> Tensor:
        """Mask logits [B,Q,H/4,W/4] alone: all that the next layer needs of a prediction."""
        return self._masks(self.query_norm(queries), mask_features)

    def _masks(self, normalised_queries: Tensor, mask_features: Tensor) -> Tensor:
        return mask_product(self.mask_embedding(normalised_queries), mask_features)

    def spatial_query(self, sam: Tensor, mask_logits: Tensor) -> Tensor:
        """sam [B,C_sam,h,w] under mask_logits [B,Q,h',w']: [B,Q,C]."""
        pooled = pool_masks(sam, mask_logits).to(self.pooled_projection.norm.weight.dtype)
        if self.sam_projection is not None:
            pooled = self.sam_projection(pooled)
        y: Tensor = self.pooled_projection(pooled)
        return y


class DecoderLayer(nn.Module):
    """Masked cross-attention to a map, self-attention among queries, feed-forward; maybe a Feature Injector first."""

    def __init__(self, config: DecoderConfig, has_feature_injector: bool) -> None:
        super().__init__()
        dim, heads = config.hidden_dim, config.num_heads
        self.feature_injector = AttentionBlock(dim, heads) if has_feature_injector else None
        self.cross_attention = AttentionBlock(dim, heads)
        self.self_attention = AttentionBlock(dim, heads)
        self.feedforward = FeedForward(dim, config.feedforward_dim)

    def forward(
        self,
        queries: Tensor,
        query_position: Tensor,
        level: tuple[Tensor, Tensor],
        allowed: Tensor,
        sam: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """queries [B,Q,C]; query_position [Q,C]; level and sam: (tokens [B,S,C], their position [S,C]);
        allowed [B,Q,S] bool."""
        tokens, position = level
        token_position: Tensor | None = position
        if self.feature_injector is not None:
            assert sam is not None
            tokens = self.feature_injector(tokens, sam[0], position=position, memory_position=sam[1])
            # What the injector hands on carries no position (published; the released weights rely on it).
            token_position = None
        queries = self.cross_attention(
            queries, tokens, position=query_position, memory_position=token_position, allowed=allowed
        )
        queries = self.self_attention(queries, queries, position=query_position, memory_position=query_position)
        y: Tensor = self.feedforward(queries)
        return y


class TransformerDecoder(nn.Module):
    """Queries read the maps layer by layer; every state of them is turned into a prediction."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.query_content = nn.Embedding(config.num_queries, dim)
        self.query_position = nn.Embedding(config.num_queries, dim)
        self.level_embedding = nn.Embedding(NUM_LEVELS, dim)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer in config.feature_injector_layers) for layer in range(config.num_layers)
        )
        self.heads = PredictionHeads(config)
        # After the last layer nothing reads the queries any more: an injector there has no effect and is skipped.
        self.query_injector_layers = frozenset(config.query_injector_layers) - {config.num_layers - 1}

    def forward(
        self,
        pixel: PixelFeatures,
        sam: Tensor,
        sam_map: Tensor | None,
        text: TextEmbeddings,
        void: Tensor,
        *,
        with_auxiliary: bool = True,
    ) -> DecoderOutput:
        """sam [B,C_sam,h,w]: SAM's own map, for the Query Injector; sam_map [B,C,h',w']: the SAM branch's, None
        without a Feature Injector; void [D]; with_auxiliary: classify the queries after every layer, for the loss."""
        sizes = [map_size(level) for level in pixel.levels]
        levels = [self._tokens(level, index) for index, level in enumerate(pixel.levels)]
        sam_tokens = None if sam_map is None else self._tokens(self._fit_sam(sam_map, sizes[0]), 0)
        batch = int(pixel.mask_features.shape[0])
        queries = self.query_content.weight.expand(batch, -1, -1)
        auxiliary: list[DecoderPrediction] = []
        for index, layer in enumerate(self.layers):
            if with_auxiliary:
                auxiliary.append(self.heads(queries, pixel.mask_features, text, void))
                masks = auxiliary[-1].mask_logits
            else:
                masks = self.heads.masks(queries, pixel.mask_features)
            if index - 1 in self.query_injector_layers:
                queries = queries + self.heads.spatial_query(sam, masks)
            turn = index % NUM_LEVELS
            allowed = self._allowed(masks, sizes[turn])
            queries = layer(queries, self.query_position.weight, levels[turn], allowed, sam_tokens)
        final = self.heads(queries, pixel.mask_features, text, void)
        return DecoderOutput(mask_logits=final.mask_logits, class_logits=final.class_logits, auxiliary=tuple(auxiliary))

    def _fit_sam(self, sam_map: Tensor, size: Size) -> Tensor:
        """In evaluation the SAM map is brought to the stride-32 grid: there SAM saw the picture squashed to a square.
        Training crops are square, so the map is taken as it is."""
        return sam_map if self.training else resize_bilinear(sam_map, size)

    def _tokens(self, level: Tensor, row: int) -> tuple[Tensor, Tensor]:
        """Tokens [B,S,C] with the level's vector, and their sine position [S,C]."""
        tokens = flatten_map(level) + self.level_embedding.weight[row]
        position = sine_position_embedding(map_size(level), int(level.shape[1]), level.device)
        return tokens, position.to(tokens.dtype)

    @staticmethod
    @torch.no_grad()
    def _allowed(mask_logits: Tensor, size: Size) -> Tensor:
        """[B,Q,h*w] bool: cells with a mask probability of 0.5 or more; all of them where there is none."""
        probability = resize_bilinear(mask_logits, size).float().sigmoid()
        return open_blocked_rows(probability.flatten(2) >= 0.5)
