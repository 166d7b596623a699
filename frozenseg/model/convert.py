"""Released FrozenSeg and FC-CLIP checkpoints -> our model folder. Every key is mapped, dropped by name, or an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from frozenseg.decoder import DecoderConfig, MaskDecoder, decoder_key
from frozenseg.encoders import OpenClipEncoder, SamImageEncoder, build_clip, build_sam, open_clip_config, sam_preset
from frozenseg.errors import UserInputError
from frozenseg.model.checkpoint import read_checkpoint
from frozenseg.model.folder import save_model
from frozenseg.model.frozenseg import FrozenSeg
from frozenseg.model.load_encoders import load_into
from frozenseg.model.official import OFFICIAL_WEIGHTS
from frozenseg.model.spec import CLIP_FILE, SAM_FILE, ClipReference, ModelSpec, SamReference
from frozenseg.types import Vocabulary

CLIP_PREFIX = "backbone.clip_model."
SAM_PREFIX = "sam."
DROPPED = frozenset(
    {
        "criterion.empty_weight",  # class weights of the loss
        "pixel_mean",
        "pixel_std",
        "sam.pixel_mean",
        "sam.pixel_std",
        "backbone.clip_model.attn_mask",  # all fixed by the architecture
    }
)
"""Keys without information of their own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sorted:
    """A checkpoint's tensors by what they are, under the names of the module that takes them."""

    decoder: dict[str, Tensor]
    clip: dict[str, Tensor]
    sam: dict[str, Tensor]


def convert_checkpoint(
    source: str | Path,
    folder: str | Path,
    *,
    with_encoders: bool = False,
    training_vocabulary: Vocabulary | None = None,
) -> ModelSpec:
    """Writes a model folder from a released checkpoint and returns its spec.

    Args:
        source: bare state dict or training checkpoint.
        folder: of the model to write.
        with_encoders: store the CLIP and SAM weights that the file holds; otherwise the folder refers to the official
            ones and names the hash of the file's.
        training_vocabulary: what the model was trained with; decides which categories are seen.

    Raises:
        UserInputError: unknown, missing or misshapen keys, the first ones named; no known encoder fits.
    """
    tensors = sort_keys(read_checkpoint(Path(source)), str(source))
    if with_encoders and not tensors.clip:
        raise UserInputError(f"checkpoint {source} holds no encoder weights, so --with-encoders has nothing to keep")
    config = infer_decoder(tensors.decoder)
    decoder = MaskDecoder(config)
    load_into(decoder, tensors.decoder, f"decoder of {source}")
    clip_reference, clip = _match_clip(tensors.clip, config)
    sam_reference, sam = _match_sam(tensors.sam, config)
    if with_encoders:
        clip_reference = dataclasses.replace(clip_reference, source="file", location=CLIP_FILE)
        if sam_reference is not None and tensors.sam:
            sam_reference = dataclasses.replace(sam_reference, source="file", location=SAM_FILE)
    spec = ModelSpec(
        name="frozenseg" if sam_reference is not None else "fc-clip",
        clip=clip_reference,
        sam=sam_reference,
        decoder=config,
        training_vocabulary=training_vocabulary,
        notes=f"Converted from the released checkpoint {Path(source).name}.",
    )
    save_model(FrozenSeg(clip, sam, decoder, spec), folder)
    return spec


def sort_keys(tensors: Mapping[str, Tensor], source: str) -> Sorted:
    """Sorts a checkpoint's keys.

    Raises:
        UserInputError: a key that belongs nowhere, or no decoder at all.
    """
    decoder: dict[str, Tensor] = {}
    clip: dict[str, Tensor] = {}
    sam: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, tensor in tensors.items():
        ours = decoder_key(key)
        if key in DROPPED:
            continue
        if ours is not None:
            decoder[ours] = tensor
        elif key.startswith(CLIP_PREFIX):
            clip[key.removeprefix(CLIP_PREFIX)] = tensor
        elif key.startswith(SAM_PREFIX):
            sam[key.removeprefix(SAM_PREFIX)] = tensor
        else:
            unknown.append(key)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise UserInputError(f"checkpoint {source}: no place for {', '.join(map(repr, unknown[:3]))}{more}")
    if not decoder:
        raise UserInputError(f"checkpoint {source}: expected a FrozenSeg or FC-CLIP model, found no key of its decoder")
    return Sorted(decoder=decoder, clip=clip, sam=sam)


def infer_decoder(tensors: Mapping[str, Tensor]) -> DecoderConfig:
    """The decoder's numbers from its tensors' shapes. Heads leave no trace in shapes: the published 8 are assumed.

    Raises:
        UserInputError: a tensor that fixes one of them is missing.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise UserInputError(f"the checkpoint's decoder lacks {name!r} (our name)")
        return tuple(tensors[name].shape)

    def count(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})

    feature_layers = {
        int(name.split(".")[2])
        for name in tensors
        if name.startswith("transformer.layers.") and "feature_injector" in name
    }
    has_sam = any(name.startswith("sam_branch.") for name in tensors)
    num_layers = count("transformer.layers.")
    heads = DecoderConfig().num_heads
    offsets = shape("pixel_decoder.encoder.layers.0.attention.attention_logits.weight")[0]
    inputs = [shape(f"pixel_decoder.input_projections.{i}.convolution.weight")[1] for i in (2, 1, 0)]
    feedforward = shape("pixel_decoder.encoder.layers.0.feedforward.expand.weight")[0]
    return DecoderConfig(
        clip_channels=(shape("pixel_decoder.lateral.convolution.weight")[1], inputs[0], inputs[1], inputs[2]),
        embedding_dim=shape("void_embedding.weight")[1],
        sam_channels=shape("sam_branch.reduce.convolution.weight")[1] if has_sam else 0,
        hidden_dim=shape("pixel_decoder.mask_projection.weight")[1],
        mask_dim=shape("pixel_decoder.mask_projection.weight")[0],
        num_queries=shape("transformer.query_content.weight")[0],
        num_heads=heads,
        num_layers=num_layers,
        feedforward_dim=shape("transformer.layers.0.feedforward.expand.weight")[0],
        pixel_decoder_layers=count("pixel_decoder.encoder.layers."),
        pixel_decoder_feedforward_dim=feedforward,
        num_points=offsets // (heads * 3),
        # The Query Injector has no tensors of its own: every model with a SAM branch has it after layers 2, 5, 8.
        query_injector_layers=tuple(i for i in range(num_layers) if i % 3 == 2) if has_sam else (),
        feature_injector_layers=tuple(sorted(feature_layers)),
        sam_memory="published",  # what released weights were trained with: docs/decisions
    )


def _match_clip(tensors: dict[str, Tensor], config: DecoderConfig) -> tuple[ClipReference, OpenClipEncoder]:
    """The official CLIP whose shapes fit, holding the checkpoint's tensors where it has them."""
    for entry in OFFICIAL_WEIGHTS:
        if entry.kind != "clip" or open_clip_config(entry.architecture).embed_dim != config.embedding_dim:
            continue
        clip = build_clip(entry.architecture, device="meta")
        if (clip.pyramid_channels, clip.embedding_dim) != (config.clip_channels, config.embedding_dim):
            continue
        sha256 = ""
        if tensors:
            _assign(clip.model, tensors, "CLIP")
            sha256 = clip.weights_hash
        reference = ClipReference(
            architecture=entry.architecture, source="open_clip", location=entry.tag, sha256=sha256
        )
        return reference, clip
    raise UserInputError(
        f"no known CLIP has pyramid channels {config.clip_channels} and width {config.embedding_dim}; "
        "see `frozenseg weights list`"
    )


def _match_sam(tensors: dict[str, Tensor], config: DecoderConfig) -> tuple[SamReference | None, SamImageEncoder | None]:
    """The official SAM whose shapes fit; ViT-B where the file holds none, as in all released models."""
    if config.sam_channels == 0:
        if tensors:
            raise UserInputError("the checkpoint holds a SAM but no SAM branch in its decoder")
        return None, None
    position = tensors.get("image_encoder.pos_embed")
    for entry in OFFICIAL_WEIGHTS:
        if entry.kind != "sam":
            continue
        architecture = sam_preset(entry.architecture)
        width = 768 if position is None else int(position.shape[-1])
        if architecture.trunk != "vit" or architecture.dim != width:
            continue
        sam = build_sam(architecture, device="meta")
        sha256 = ""
        if tensors:
            _assign(sam.sam, tensors, "SAM")
            sha256 = sam.weights_hash
        return SamReference(
            architecture=entry.architecture, source="official", location=entry.file_name, sha256=sha256
        ), sam
    raise UserInputError("the checkpoint's SAM is none of ViT-B, ViT-L and ViT-H")


def _assign(module: torch.nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Puts the tensors themselves into a module of the meta device: no copy of a gigabyte."""
    load_into(module, tensors, what, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
