"""Frozen encoders: CLIP for what things are, SAM for where they are."""

from frozenseg.encoders.base import ClipEncoder, ClipFeatures, PooledEmbeddings, SamEncoder
from frozenseg.encoders.clip import OpenClipEncoder
from frozenseg.encoders.clip_builder import OpenClipConfig, build_clip, build_open_clip, clip_encoder, open_clip_config
from frozenseg.encoders.convnext import ConvNextClip
from frozenseg.encoders.features import encode_batch, feature_key
from frozenseg.encoders.resnet import ResNetClip
from frozenseg.encoders.sam import SAM_PRESETS, SamArchitecture, SamImageEncoder, VitSam, sam_preset
from frozenseg.encoders.sam_builder import build_sam
from frozenseg.encoders.tiny_vit import TinyVitSam
from frozenseg.encoders.tokenizer import BpeTokenizer, SubsetTokenizer, Tokenizer, TruncatedTextWarning

__all__ = [
    "SAM_PRESETS",
    "BpeTokenizer",
    "ClipEncoder",
    "ClipFeatures",
    "ConvNextClip",
    "OpenClipConfig",
    "OpenClipEncoder",
    "PooledEmbeddings",
    "ResNetClip",
    "SamArchitecture",
    "SamEncoder",
    "SamImageEncoder",
    "SubsetTokenizer",
    "TinyVitSam",
    "Tokenizer",
    "TruncatedTextWarning",
    "VitSam",
    "build_clip",
    "build_open_clip",
    "build_sam",
    "clip_encoder",
    "encode_batch",
    "feature_key",
    "open_clip_config",
    "sam_preset",
]
