"""Fixed views: scenes seen once through the frozen encoders, so that many trainings and evaluations share the work.

Shape legend: N scenes, C channels, S = 128 scene side.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from frozenseg.data import collate, decode_annotation, decode_image, resize_for_test
from frozenseg.encoders import OpenClipEncoder, SamImageEncoder, encode_batch
from frozenseg.miniature.dataset import encoded_sample
from frozenseg.miniature.encoders import IMAGE_SIZE
from frozenseg.miniature.world import Contents, SceneSegment, make_scene
from frozenseg.types import EncoderFeatures, FeatureKey, PanopticAnnotation, PanopticTarget, TruthSegment, Vocabulary

_SCENES_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FixedViews:
    """Features (kept in float16) and truth of N scenes.

    Fields: maps: the four pyramid levels, the dense map and SAM's, each [N,C,h,w] float16; source: what made them;
    targets, annotations, segments: truth by scene at the scene's own size; targets index `vocabulary`.
    """

    maps: tuple[Tensor, ...]
    source: FeatureKey
    vocabulary: Vocabulary
    targets: tuple[PanopticTarget, ...]
    annotations: tuple[PanopticAnnotation, ...]
    segments: tuple[tuple[SceneSegment, ...], ...]

    def __len__(self) -> int:
        return len(self.targets)

    def features(self, indices: Sequence[int]) -> EncoderFeatures:
        """Features of some scenes in float32."""
        picked = torch.tensor(list(indices))
        first, second, third, fourth, dense, sam = (level[picked].float() for level in self.maps)
        return EncoderFeatures(
            clip_pyramid=(first, second, third, fourth), clip_dense=dense, sam=sam, source=self.source
        )


def make_views(
    clip: OpenClipEncoder,
    sam: SamImageEncoder | None,
    vocabulary: Vocabulary,
    contents: Contents,
    count: int,
    seed: int,
    report: Callable[[int], None] | None = None,
    first: int = 0,
) -> FixedViews:
    """`count` scenes of series `seed` from number `first` on, through the camera, the test resize and the encoders."""
    levels: list[list[Tensor]] = [[] for _ in range(6)]
    targets: list[PanopticTarget] = []
    annotations: list[PanopticAnnotation] = []
    segments: list[tuple[SceneSegment, ...]] = []
    source = None
    for start in range(first, first + count, _SCENES_AT_ONCE):
        numbers = range(start, min(start + _SCENES_AT_ONCE, first + count))
        scenes = [make_scene(seed, number, contents) for number in numbers]
        samples = [
            encoded_sample(scene, str(number), vocabulary) for scene, number in zip(scenes, numbers, strict=True)
        ]
        images = [decode_image(sample.image_bytes, sample.image_id) for sample in samples]
        batch = collate([resize_for_test(image, IMAGE_SIZE, IMAGE_SIZE) for image in images])
        features = encode_batch(clip, sam, batch)
        source = features.source
        for level, map_ in zip(levels, (*features.clip_pyramid, features.clip_dense, features.sam), strict=True):
            level.append(map_.half())
        for scene, sample in zip(scenes, samples, strict=True):
            annotation = decode_annotation(sample)
            annotations.append(annotation)
            targets.append(annotation.target())
            segments.append(scene.segments)
        if report is not None:
            report(len(targets))
    assert source is not None, "at least one scene is needed"
    return FixedViews(
        maps=tuple(torch.cat(level) for level in levels),
        source=source,
        vocabulary=vocabulary,
        targets=tuple(targets),
        annotations=tuple(annotations),
        segments=tuple(segments),
    )


def save_views(views: FixedViews, path: Path) -> None:
    """Writes the views as one safetensors file (mapped into memory when read: processes share it)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"map{number}": level.contiguous() for number, level in enumerate(views.maps)}
    tensors["segment_ids"] = torch.stack([annotation.segment_ids for annotation in views.annotations])
    metadata = {
        "source": json.dumps(dataclasses.asdict(views.source)),
        "segments": json.dumps([[dataclasses.asdict(s) for s in scene] for scene in views.segments]),
    }
    partial = path.with_suffix(".partial")
    safetensors.torch.save_file(tensors, partial, metadata)
    os.replace(partial, path)


def load_views(path: Path, vocabulary: Vocabulary) -> FixedViews:
    """Reads what `save_views` wrote; `vocabulary` is the one the views were made with."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        maps = tuple(file.get_tensor(f"map{number}") for number in range(6))
        segment_ids = file.get_tensor("segment_ids")
    index = {category.name: position for position, category in enumerate(vocabulary.categories)}
    segments = tuple(tuple(SceneSegment(**entry) for entry in scene) for scene in json.loads(metadata["segments"]))
    annotations = tuple(
        PanopticAnnotation(
            segment_ids=ids,
            segments=tuple(
                TruthSegment(id=s.id, category_id=index[s.name], is_thing=s.is_thing, area=s.area) for s in scene
            ),
        )
        for ids, scene in zip(segment_ids, segments, strict=True)
    )
    return FixedViews(
        maps=maps,
        source=FeatureKey(**json.loads(metadata["source"])),
        vocabulary=vocabulary,
        targets=tuple(annotation.target() for annotation in annotations),
        annotations=annotations,
        segments=segments,
    )
