"""The model's parts as Serve deployments, each scaled by itself: encoders, SAM's masks, decoder with classification.

Features travel between replicas through Ray's object store: a part is handed the other's answer, never by way of the
ingress. Every part loads the model folder once, and its health check runs its share of the model on a small picture.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, replace

import torch
from ray import serve as ray_serve

from frozenseg.data import collate, resize_for_test
from frozenseg.inference.geometry import ImageGeometry
from frozenseg.inference.loading import load_segmenter
from frozenseg.inference.options import InferenceOptions
from frozenseg.inference.segmenter import Segmenter
from frozenseg.types import Batch, Category, EncoderFeatures, ImageSample, SamMasks, Vocabulary, stack_features
from serve.answers import describe_segment, find_segments
from serve.schema import SegmentOptions, SegmentOut
from serve.settings import ServeSettings

CHECK_SIDE = 64
"""Side in pixels of the picture that health checks run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """One image at network size, with the way back to the client's own size."""

    batch: Batch
    geometry: ImageGeometry

    @property
    def num_pixels(self) -> int:
        return self.geometry.padded_size[0] * self.geometry.padded_size[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """Features of one image and the seconds its batch took."""

    features: EncoderFeatures
    geometry: ImageGeometry
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedImage:
    """SAM's masks of one image and the seconds they took."""

    masks: SamMasks
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedImage:
    """The decoder's answer: segments, which categories are seen, seconds by stage, and the model's notice if any."""

    segments: tuple[SegmentOut, ...]
    seen: tuple[bool, ...]
    seconds: dict[str, float]
    notice: str


def prepare_image(sample: ImageSample, options: InferenceOptions) -> PreparedImage:
    """Resizes and pads as for evaluation."""
    resized = resize_for_test(sample, options.shortest_side, options.longest_side)
    batch = collate([resized])
    geometry = ImageGeometry(
        padded_size=(int(batch.images.shape[2]), int(batch.images.shape[3])),
        valid_size=(int(resized.image.shape[1]), int(resized.image.shape[2])),
        output_size=sample.original_size,
    )
    return PreparedImage(batch=batch, geometry=geometry)


def check_image() -> PreparedImage:
    """A gradient, so that normalisation and every layer have something to do."""
    ramp = torch.linspace(0, 255, CHECK_SIDE * CHECK_SIDE).to(torch.uint8).view(1, CHECK_SIDE, CHECK_SIDE)
    size = (CHECK_SIDE, CHECK_SIDE)
    sample = ImageSample(image_id="health", image=ramp.expand(3, -1, -1).contiguous(), original_size=size)
    return PreparedImage(batch=collate([sample]), geometry=ImageGeometry.whole(size))


def _load(settings: ServeSettings) -> Segmenter:
    torch.set_num_threads(settings.threads)
    segmenter = load_segmenter(settings.model, settings.device, settings.dtype)
    segmenter.model.eval()
    return segmenter


def total_pixels(images: list[PreparedImage]) -> int:
    """The size of a batch: what an encoder's time and memory follow is pixels, not images."""
    return sum(image.num_pixels for image in images)


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
        self._encode.set_max_batch_size(settings.batch_pixels)
        self._encode.set_batch_wait_timeout_s(settings.batch_wait_s)

    @ray_serve.batch(max_batch_size=4 * 1024 * 1024, batch_wait_timeout_s=0.005, batch_size_fn=total_pixels)
    async def _encode(self, images: list[PreparedImage]) -> list[EncodedImage]:
        started = time.perf_counter()
        features = await asyncio.to_thread(encode_together, self._segmenter, images)
        seconds = time.perf_counter() - started
        return [
            EncodedImage(features=f, geometry=i.geometry, seconds=seconds)
            for f, i in zip(features, images, strict=True)
        ]

    async def encode(self, image: PreparedImage) -> EncodedImage:
        """Features of one image; images that come within the batch's wait share a forward pass."""
        encoded: EncodedImage = await self._encode(image)
        return encoded

    def check_health(self) -> None:
        """Runs both encoders. Serve replaces a replica whose check raises."""
        encode_together(self._segmenter, [check_image()])


@ray_serve.deployment
class SamMaskMaker:
    """SAM's masks for the OpenSeg ensemble, from the features that the encoders made."""

    def __init__(self, settings: ServeSettings) -> None:
        self._segmenter = _load(settings)

    def masks(self, encoded: EncodedImage) -> MaskedImage:
        """Masks of one encoded image."""
        started = time.perf_counter()
        masks = self._segmenter.sam_masks(encoded.features, [encoded.geometry])[0]
        return MaskedImage(masks=masks, seconds=time.perf_counter() - started)


@ray_serve.deployment
class Decoder:
    """Mask decoder, classification and post-processing; text embeddings of a vocabulary are kept across requests."""

    def __init__(self, settings: ServeSettings) -> None:
        self._segmenter = _load(settings)

    def segment(
        self, encoded: EncodedImage, masked: MaskedImage | None, vocabulary: Vocabulary, options: SegmentOptions
    ) -> SegmentedImage:
        """Segments of one encoded image for one vocabulary."""
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
