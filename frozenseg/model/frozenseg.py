"""The whole model: two frozen encoders and the trained decoder, joined by `EncoderFeatures`."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from frozenseg.classify import VILD_TEMPLATES, embed_vocabulary
from frozenseg.decoder import MaskDecoder
from frozenseg.encoders import OpenClipEncoder, SamImageEncoder, encode_batch
from frozenseg.model.spec import ModelSpec
from frozenseg.types import Batch, DecoderOutput, EncoderFeatures, TextEmbeddings, Vocabulary

NUM_CACHED_VOCABULARIES = 32
"""Text rows kept per model: a row of 768 numbers and 1,200 categories is 3.5 MB, so the bound is about 110 MB."""


class FrozenSeg(nn.Module):
    """Encoders and decoder; only the decoder's parameters train.

    Args:
        clip, sam: frozen encoders; sam is None for a model without SAM.
        decoder: the mask decoder.
        spec: what the parts are; its training vocabulary decides which categories are seen.
        compute_dtype: dtype of autocast in `encode` and `decode`; float32 means no autocast. Parameters stay float32.
        mask_sam: the SAM that makes masks for the OpenSeg ensemble, `sam` itself when None.
    """

    def __init__(
        self,
        clip: OpenClipEncoder,
        sam: SamImageEncoder | None,
        decoder: MaskDecoder,
        spec: ModelSpec,
        *,
        compute_dtype: torch.dtype = torch.float32,
        mask_sam: SamImageEncoder | None = None,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.sam = sam
        self.mask_sam = mask_sam
        self.decoder = decoder
        self.spec = spec
        self.compute_dtype = compute_dtype
        self._texts: OrderedDict[tuple[object, ...], TextEmbeddings] = OrderedDict()

    @property
    def device(self) -> torch.device:
        return next(self.decoder.parameters()).device

    def encode(self, batch: Batch) -> EncoderFeatures:
        """Images [B,3,H,W] uint8 -> features, without gradients."""
        with torch.no_grad(), self._autocast():
            return encode_batch(self.clip, self.sam, batch.to(self.device))

    def decode(self, features: EncoderFeatures, text: TextEmbeddings) -> DecoderOutput:
        """Features and text rows -> mask and class logits in float32; auxiliary predictions in training mode only."""
        with self._autocast():
            output: DecoderOutput = self.decoder(features, text, with_auxiliary=self.training)
        return output

    def forward(self, batch: Batch, text: TextEmbeddings) -> DecoderOutput:
        return self.decode(self.encode(batch), text)

    def text(self, vocabulary: Vocabulary, templates: Sequence[str] = VILD_TEMPLATES) -> TextEmbeddings:
        """Text rows of a vocabulary, from a bounded cache keyed by the names themselves."""
        key = (tuple(c.names for c in vocabulary.categories), tuple(templates), self.device)
        if key not in self._texts:
            with torch.no_grad():
                self._texts[key] = embed_vocabulary(self.clip, vocabulary, templates).to(self.device)
            if len(self._texts) > NUM_CACHED_VOCABULARIES:
                self._texts.popitem(last=False)
        self._texts.move_to_end(key)
        return self._texts[key]

    def seen(self, vocabulary: Vocabulary) -> Tensor:
        """[K] bool: the category's name was in the training vocabulary. All False when that is not known."""
        if self.spec.training_vocabulary is None:
            return torch.zeros(len(vocabulary), dtype=torch.bool)
        return vocabulary.seen_mask(self.spec.training_vocabulary)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.compute_dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute_dtype)
