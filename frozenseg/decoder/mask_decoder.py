"""The trained part of the model: from frozen features and text to masks and classes."""

from __future__ import annotations

from torch import Tensor, nn

from frozenseg.decoder.config import DecoderConfig
from frozenseg.decoder.pixel_decoder import PixelDecoder, SamBranch
from frozenseg.decoder.transformer import TransformerDecoder
from frozenseg.errors import UserInputError
from frozenseg.types import DecoderOutput, EncoderFeatures, TextEmbeddings


class MaskDecoder(nn.Module):
    """Pixel decoder, SAM branch and transformer decoder, with the learned void row.

    Every parameter trains. Which ones exist follows from the config: the SAM branch only with a Feature Injector,
    and with both injectors off this is FC-CLIP's decoder.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.pixel_decoder = PixelDecoder(config)
        self.sam_branch = SamBranch(config) if config.feature_injector_layers else None
        self.transformer = TransformerDecoder(config)
        self.void_embedding = nn.Embedding(1, config.embedding_dim)

    def forward(self, features: EncoderFeatures, text: TextEmbeddings, *, with_auxiliary: bool = True) -> DecoderOutput:
        """Predictions for a batch of features.

        Args:
            features: clip_pyramid at strides 4, 8, 16, 32 with `config.clip_channels`; sam [B,sam_channels,h,w] of any
                size when an injector is on, not looked at otherwise.
            text: rows [T,D] of unit norm.
            with_auxiliary: the predictions that only the loss reads; without them `auxiliary` is empty.

        Returns:
            mask_logits [B,Q,H/4,W/4] (in autocast's dtype); class_logits [B,Q,K+1] float32, void last; auxiliary: the
            `num_layers` predictions before it, first the one before layer 0.

        Raises:
            UserInputError: the features or the text rows have other widths than the config says.
        """
        self._check(features, text)
        pixel = self.pixel_decoder(features.clip_pyramid)
        sam_map: Tensor | None = None if self.sam_branch is None else self.sam_branch(features.sam)
        void = self.void_embedding.weight[0]
        output: DecoderOutput = self.transformer(
            pixel, features.sam, sam_map, text, void, with_auxiliary=with_auxiliary
        )
        return output

    def _check(self, features: EncoderFeatures, text: TextEmbeddings) -> None:
        found = tuple(int(level.shape[1]) for level in features.clip_pyramid)
        if found != self.config.clip_channels:
            raise UserInputError(
                f"the CLIP features have {found} channels, this decoder expects {self.config.clip_channels}"
            )
        if self.config.uses_sam and int(features.sam.shape[1]) != self.config.sam_channels:
            raise UserInputError(
                f"the SAM features have {int(features.sam.shape[1])} channels, "
                f"this decoder expects {self.config.sam_channels}"
            )
        if int(text.rows.shape[1]) != self.config.embedding_dim:
            raise UserInputError(
                f"the text embeddings are {int(text.rows.shape[1])} wide, "
                f"this decoder expects {self.config.embedding_dim}"
            )
