"""What the two CLIP families share: text, scale, identity. Images differ and live in convnext.py and resnet.py.

Shape legend: B images, H W padded pixels, N texts, L tokens, D CLIP width, Q masks, C channels, h w dense map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from open_clip import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor

from frozenseg import ops
from frozenseg.encoders.base import ClipFeatures, PooledEmbeddings
from frozenseg.encoders.frozen import FrozenModule
from frozenseg.encoders.pixels import CLIP_PIXEL_MEAN, CLIP_PIXEL_STD, Rgb, normalise
from frozenseg.encoders.tokenizer import Tokenizer
from frozenseg.errors import UserInputError

MAX_LOGIT_SCALE = 100.0


class OpenClipEncoder(FrozenModule, ABC):
    """A frozen open_clip model.

    Args:
        model: a built `open_clip.CLIP`; it is frozen here.
        tokenizer: texts to token ids of its text tower.
        architecture: name written into feature keys and model folders.
        pixel_mean: by channel, RGB, in 0..255.
        pixel_std: by channel, RGB, in 0..255.

    Raises:
        UserInputError: the tokeniser counts other tokens than the text tower has rows or positions.
    """

    def __init__(
        self,
        model: CLIP,
        tokenizer: Tokenizer,
        architecture: str,
        pixel_mean: Rgb = CLIP_PIXEL_MEAN,
        pixel_std: Rgb = CLIP_PIXEL_STD,
    ) -> None:
        super().__init__()
        rows, positions = int(model.token_embedding.weight.shape[0]), int(model.positional_embedding.shape[0])
        if (tokenizer.vocab_size, tokenizer.context_length) != (rows, positions):
            raise UserInputError(
                f"{architecture}: the text tower has {rows} tokens and {positions} positions, "
                f"its tokeniser {tokenizer.vocab_size} and {tokenizer.context_length}"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.architecture = architecture
        self.pixel_mean = pixel_mean
        self.pixel_std = pixel_std
        self.freeze()

    @property
    def embedding_dim(self) -> int:
        return int(self.model.text_projection.shape[-1])

    @property
    def logit_scale(self) -> float:
        """min(exp(learned log scale), 100)."""
        return min(float(self.model.logit_scale.detach().float().exp()), MAX_LOGIT_SCALE)

    @property
    @abstractmethod
    def pyramid_channels(self) -> tuple[int, int, int, int]:
        """Channels at strides 4, 8, 16, 32."""

    @property
    @abstractmethod
    def ensemble_needs_mask(self) -> bool:
        """True where an empty mask has no CLIP evidence, so that the class ensemble leaves it to the decoder."""

    @abstractmethod
    def _encode_pixels(self, pixels: Tensor) -> ClipFeatures:
        """pixels [B,3,H,W], normalised."""

    @abstractmethod
    def _embed_pooled(self, dense: Tensor, mask_logits: Tensor, non_empty: Tensor) -> Tensor:
        """dense [B,C,h,w]; mask_logits [B,Q,h,w]; non_empty [B,Q] bool. Returns [B,Q,D]."""

    @torch.no_grad()
    def encode_image(self, images: Tensor, valid_sizes: Tensor) -> ClipFeatures:
        """Normalises, zeroes the padding, runs the trunk.

        Args:
            images: [B,3,H,W] uint8 RGB, H and W multiples of 32.
            valid_sizes: [B,2] int64, (height, width) without padding.

        Raises:
            UserInputError: a side that is no multiple of 32.
        """
        height, width = images.shape[-2:]
        if height % 32 or width % 32 or not images.numel():
            raise UserInputError(f"CLIP needs images whose sides are multiples of 32 pixels; found {height}x{width}")
        pixels = normalise(images.to(self.weights_device), valid_sizes, self.pixel_mean, self.pixel_std)
        features = self._encode_pixels(pixels.to(self.model.logit_scale.dtype))
        dtype = self.compute_dtype
        first, second, third, fourth = (level.to(dtype) for level in features.pyramid)
        return ClipFeatures(pyramid=(first, second, third, fourth), dense=features.dense.to(dtype))

    @torch.no_grad()
    def pool_masks(self, dense: Tensor, mask_logits: Tensor) -> PooledEmbeddings:
        """CLIP embeddings of mask regions.

        Args:
            dense: [B,C,h,w], from `encode_image`.
            mask_logits: [B,Q,h',w'], resized bilinearly to h, w when they differ; a cell belongs where > 0.

        Returns:
            embeddings [B,Q,D] in the weights' dtype, not normalised and always finite; non_empty [B,Q] bool.
        """
        batch, num_masks = mask_logits.shape[:2]
        if num_masks == 0:  # an image without SAM masks; interpolation refuses empty input
            return PooledEmbeddings(
                embeddings=dense.new_zeros((batch, 0, self.embedding_dim), dtype=self.model.logit_scale.dtype),
                non_empty=torch.zeros((batch, 0), dtype=torch.bool, device=dense.device),
            )
        resized = ops.resize_bilinear(mask_logits, (int(dense.shape[-2]), int(dense.shape[-1])))
        non_empty = (resized > 0).flatten(2).any(-1)
        embeddings = self._embed_pooled(dense.to(self.model.logit_scale.dtype), resized, non_empty)
        return PooledEmbeddings(embeddings=embeddings, non_empty=non_empty)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """[N,D], not normalised. Text longer than the context is cut, with a warning that names it.

        Attention is causal and the result is read at the end token, so positions after the longest text's end cannot
        matter: they are left out, which makes short names several times faster.
        """
        if not texts:
            return torch.zeros(0, self.embedding_dim, device=self.weights_device, dtype=self.model.logit_scale.dtype)
        model = self.model
        tokens = self.tokenizer(texts)
        length = int(tokens.argmax(dim=-1).max()) + 1
        tokens = tokens[:, :length].to(self.weights_device)
        dtype = model.transformer.get_cast_dtype()
        x = model.token_embedding(tokens).to(dtype) + model.positional_embedding[:length].to(dtype)
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        pooled: Tensor = text_global_pool(x, tokens, model.text_pool_type)
        embeddings: Tensor = pooled @ model.text_projection
        return embeddings
