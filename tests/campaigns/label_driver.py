"""What the kill campaign kills: a labeling run that writes a line into a journal for every image that the model sees.

python -m tests.campaigns.label_driver MODEL IMAGES TO VOCABULARY JOURNAL [with-ray]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from frozenseg.inference.options import InferenceOptions
from frozenseg.inference.prediction import Prediction
from frozenseg.inference.segmenter import ImageInput, Segmenter
from frozenseg.types import ImageSample, Vocabulary
from pipelines import ray_session
from pipelines.label import LabelActor, label
from pipelines.labeling.formats import LabelFormat
from pipelines.labeling.options import LabelOptions
from pipelines.ray_session import Need, RayOptions
from pipelines.segmenter_pool import PoolOptions, SegmenterSource

IMAGES_PER_PART = 2
NUM_ACTORS = 2


class JournaledSegmenter(Segmenter):
    """Notes every image before it is segmented; a line is one write, which no kill tears."""

    journal = ""

    def predict_batch(
        self,
        images: Sequence[ImageInput],
        vocabulary: object,
        options: InferenceOptions | None = None,
    ) -> list[Prediction]:
        handle = os.open(self.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for image in images:
            assert isinstance(image, ImageSample)
            os.write(handle, f"{image.image_id}\n".encode())
        os.close(handle)
        assert isinstance(vocabulary, Vocabulary)
        return super().predict_batch(images, vocabulary, options)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournaledSource(SegmenterSource):
    """journal: path of the file that grows by a line an image."""

    journal: str

    def build(self) -> Segmenter:
        built = SegmenterSource.build(self)
        segmenter = JournaledSegmenter(built.model, built.options, built.grid)
        segmenter.journal = self.journal
        return segmenter


def options_for(to: str, vocabulary: str) -> LabelOptions:
    formats: tuple[LabelFormat, ...] = ("coco-panoptic", "parquet", "webdataset", "cvat", "yolo")
    return LabelOptions(to=to, vocabulary=vocabulary, formats=formats, images_per_part=IMAGES_PER_PART)


def main() -> None:
    model, images, to, vocabulary, journal = sys.argv[1:6]
    source = JournaledSource(model=model, journal=journal)
    options = options_for(to, vocabulary)
    if sys.argv[6:] != ["with-ray"]:
        label(source, images, options, PoolOptions(in_process=True))
        return
    actors = Need(name="segmenter", count=NUM_ACTORS, cpus=0.5)
    pool = PoolOptions(min_actors=NUM_ACTORS, max_actors=NUM_ACTORS, cpus=0.5)
    with ray_session.session([actors], RayOptions(dashboard=False, object_store_mb=200)):
        # Imported by its name, so that the workers build this class and not a copy of __main__'s.
        from tests.campaigns.label_driver import JournaledSource as Importable

        label(Importable(model=model, journal=journal), images, options, pool, actor=LabelActor)


if __name__ == "__main__":
    main()
