"""The model's parts as Serve deployments, each scaled by itself: encoders, SAM's masks, decoder with classification.

Features travel between replicas through Ray's object store: a part is handed the other's answer, never by way of the
ingress. Every part loads the model folder once, and its health check runs its share of the model on a small picture.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import replace

import torch
from ray import serve as ray_serve

from frozenseg.encoders import feature_key
from frozenseg.inference.geometry import ImageGeometry
from frozenseg.inference.loading import load_segmenter
from frozenseg.inference.options import InferenceOptions
from frozenseg.inference.sam_masks import GridSettings
from frozenseg.inference.segmenter import Segmenter
from frozenseg.memory import keep_freed_memory
from frozenseg.types import Batch, Category, EncoderFeatures, FeatureKey, Vocabulary, stack_features
from serve.answers import describe_segment, find_segments
from serve.batching import EncoderBatcher
from serve.schema import SegmentOptions
from serve.settings import ServeSettings
from serve.travel import (
    CHECK_SIDE,
    EncodedImage,
    MaskedImage,
    OtherModelError,
    PreparedImage,
    SegmentedImage,
    check_image,
    share_tensors,
)

HELD_BY_ENCODERS = 32
"""Requests that a replica of the encoders holds at once: batches form from what is there."""
GPU_BATCH_PIXELS = 4 * 1024 * 1024
"""Padded pixels of one encoder batch on a GPU where the settings don't say."""
CHECK_GRID = GridSettings(points_per_side=1, min_predicted_iou=0.0, min_stability=0.0)
"""One point, whose masks pass: health checks must not cost what a request costs."""


def _load(settings: ServeSettings) -> Segmenter:
    share_tensors()
    torch.set_num_threads(settings.threads)
    segmenter = load_segmenter(settings.model, settings.device, settings.dtype)
    segmenter.model.eval()
    keep_freed_memory(segmenter.model.device)
    return segmenter


def _batch_pixels(setting: int, device: torch.device) -> int:
    """What a setting of 0 means. On a CPU a pass over several images takes as long as a pass each (benchmarks/
    freed_memory.py), and the decoder would wait for the whole batch instead of working beside the encoders."""
    return setting or (1 if device.type == "cpu" else GPU_BATCH_PIXELS)


def encode_together(segmenter: Segmenter, images: list[PreparedImage]) -> list[EncoderFeatures]:
    """Features of each image; those of one padded size share a forward pass, whatever their vocabularies."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for position, image in enumerate(images):
        groups[image.geometry.padded_size].append(position)
    found: dict[int, EncoderFeatures] = {}
    for positions in groups.values():
        batch = Batch(
            image_ids=tuple(images[i].batch.image_ids[0] for i in positions),
            images=torch.cat([images[i].batch.images for i in positions]),
            valid_sizes=torch.cat([images[i].batch.valid_sizes for i in positions]),
        )
        features = segmenter.model.encode(batch).to("cpu")
        for row, position in enumerate(positions):
            found[position] = take_row(features, row)
    return [found[i] for i in range(len(images))]


def take_row(features: EncoderFeatures, row: int) -> EncoderFeatures:
    """One image's features, in memory of their own so that a batch isn't kept alive by one of its rows."""
    first, second, third, fourth = (level[row : row + 1].clone() for level in features.clip_pyramid)
    return replace(
        features,
        clip_pyramid=(first, second, third, fourth),
        clip_dense=features.clip_dense[row : row + 1].clone(),
        sam=features.sam[row : row + 1].clone(),
    )


@ray_serve.deployment
class Encoders:
    """The frozen encoders, batched by pixels."""

    def __init__(self, settings: ServeSettings) -> None:
        self._segmenter = _load(settings)
        pixels = _batch_pixels(settings.batch_pixels, self._segmenter.model.device)
        self._batcher = EncoderBatcher(self._encode_batch, pixels)

    def _encode_batch(self, images: list[PreparedImage]) -> list[EncodedImage]:
        started = time.perf_counter()
        features = encode_together(self._segmenter, images)
        seconds = time.perf_counter() - started
        return [
            EncodedImage(features=f, geometry=i.geometry, seconds=seconds)
            for f, i in zip(features, images, strict=True)
        ]

    async def encode(self, image: PreparedImage) -> EncodedImage:
        """Features of one image; images that come while others are encoded share the next forward pass."""
        return await self._batcher(image)

    def check_health(self) -> None:
        """Runs both encoders. Serve replaces a replica whose check raises."""
        encode_together(self._segmenter, [check_image()])


@ray_serve.deployment
class SamMaskMaker:
    """SAM's masks for the OpenSeg ensemble: from the features that the encoders made, or from the image itself where
    the model has a SAM of its own for masks."""

    def __init__(self, settings: ServeSettings) -> None:
        self._segmenter = _load(settings)
        self._source = _source(self._segmenter)
        self._check = Segmenter(self._segmenter.model, self._segmenter.options, CHECK_GRID)

    def masks(self, encoded: EncodedImage) -> MaskedImage:
        """Masks of one encoded image.

        Raises:
            OtherModelError: another model's features.
        """
        _check_source(self._source, encoded)
        started = time.perf_counter()
        masks = self._segmenter.sam_masks(encoded.features, [encoded.geometry])[0]
        return MaskedImage(masks=masks, seconds=time.perf_counter() - started)

    def masks_of_image(self, image: PreparedImage) -> MaskedImage:
        """Masks of an image that this part encodes itself."""
        started = time.perf_counter()
        masks = self._segmenter.separate_sam_masks(image.batch, [image.geometry])[0]
        return MaskedImage(masks=masks, seconds=time.perf_counter() - started)

    def check_health(self) -> None:
        """Runs SAM from the picture to masks."""
        image = check_image()
        if self._segmenter.model.mask_sam is not None:
            self._check.separate_sam_masks(image.batch, [image.geometry])
        else:
            self._check.sam_masks(self._check.model.encode(image.batch), [image.geometry])


@ray_serve.deployment
class Decoder:
    """Mask decoder, classification and post-processing; text embeddings of a vocabulary are kept across requests."""

    def __init__(self, settings: ServeSettings) -> None:
        self._segmenter = _load(settings)
        self._source = _source(self._segmenter)

    def segment(
        self, encoded: EncodedImage, masked: MaskedImage | None, vocabulary: Vocabulary, options: SegmentOptions
    ) -> SegmentedImage:
        """Segments of one encoded image for one vocabulary.

        Raises:
            OtherModelError: another model's features.
            UserInputError: a word that the model does not know.
        """
        _check_source(self._source, encoded)
        started = time.perf_counter()
        self._segmenter.model.text(vocabulary)
        text_done = time.perf_counter()
        [prediction] = self._segmenter.predict_features(
            stack_features([encoded.features]),
            [encoded.geometry],
            vocabulary,
            sam_masks=[masked.masks] if masked is not None else (),
            options=inference_options(self._segmenter.options, options),
        )
        decoded = time.perf_counter()
        segments = tuple(describe_segment(s, vocabulary) for s in find_segments(prediction, options))
        seconds = {
            "encode": encoded.seconds,
            "text": text_done - started,
            "decode": decoded - text_done,
            "segments": time.perf_counter() - decoded,
        }
        if masked is not None:
            seconds["sam_masks"] = masked.seconds
        return SegmentedImage(
            model=self._segmenter.model.spec.name,
            segments=segments,
            seen=tuple(bool(s) for s in prediction.seen),
            seconds=seconds,
            notice=self._segmenter.notice,
        )

    def check_health(self) -> None:
        """Runs the decoder on noise-free features of the check picture."""
        features = encode_together(self._segmenter, [check_image()])[0]
        vocabulary = Vocabulary(categories=(Category(name=_any_known_name(self._segmenter)),))
        geometry = ImageGeometry.whole((CHECK_SIDE, CHECK_SIDE))
        [prediction] = self._segmenter.predict_features(features, [geometry], vocabulary)
        prediction.panoptic()


def _source(segmenter: Segmenter) -> FeatureKey:
    """Of the features that the model was made with; taken once, because weights are read for it."""
    return feature_key(segmenter.model.clip, segmenter.model.sam, torch.float32)


def _check_source(own: FeatureKey, encoded: EncodedImage) -> None:
    """Raises OtherModelError when other encoders made the features than `own`."""
    source = encoded.features.source
    # Not the dtype: features may be computed in another one without being another model's.
    if (source.clip, source.sam, source.weights_hash) != (own.clip, own.sam, own.weights_hash):
        raise OtherModelError(f"features of {source.clip} and {source.sam or 'no SAM'} with other weights")


def _any_known_name(segmenter: Segmenter) -> str:
    """A word that the model's tokenizer has a row for."""
    training = segmenter.model.spec.training_vocabulary
    return training.categories[0].name if training is not None else "object"


def inference_options(defaults: InferenceOptions, options: SegmentOptions) -> InferenceOptions:
    """The model's own options with what the request sets instead."""
    chosen = replace(defaults, openseg=options.ensemble, top_k=options.top_k)
    if options.object_threshold is not None:
        chosen = replace(chosen, object_threshold=options.object_threshold)
    if options.overlap_threshold is not None:
        chosen = replace(chosen, overlap_threshold=options.overlap_threshold)
    return chosen
