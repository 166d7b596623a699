"""The trained decoder: pixel decoder, SAM branch, masked-attention transformer with both injectors."""

from frozenseg.decoder.config import DecoderConfig, SamMemory
from frozenseg.decoder.mask_decoder import MaskDecoder
from frozenseg.decoder.published import decoder_key, published_key

__all__ = ["DecoderConfig", "MaskDecoder", "SamMemory", "decoder_key", "published_key"]
