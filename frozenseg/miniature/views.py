"""Fixed views: scenes seen once through the frozen encoders, so that many trainings and evaluations share the work.

Shape legend: N scenes, C channels, S = 128 scene side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frozenseg.data import collate, decode_annotation, decode_image, resize_for_test
from frozenseg.encoders import OpenClipEncoder, SamImageEncoder, encode_batch
from frozenseg.miniature.dataset import encoded_sample
from frozenseg.miniature.encoders import IMAGE_SIZE
from frozenseg.miniature.world import Contents, SceneSegment, make_scene
from frozenseg.types import EncoderFeatures, FeatureKey, PanopticAnnotation, PanopticTarget, Vocabulary

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
) -> FixedViews:
    """Scenes 0 to `count` - 1 of series `seed`, through the camera, the test resize and the encoders."""
    levels: list[list[Tensor]] = [[] for _ in range(6)]
    targets: list[PanopticTarget] = []
    annotations: list[PanopticAnnotation] = []
    segments: list[tuple[SceneSegment, ...]] = []
    source = None
    for start in range(0, count, _SCENES_AT_ONCE):
        numbers = range(start, min(start + _SCENES_AT_ONCE, count))
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
