"""What a feature codec does to the model's results: python -m benchmarks.feature_codec --model DIR --shards ADDRESS

For each codec: bytes per image, the difference of the decoder's outputs from float32's, the share of pixels whose
category changes, and PQ and mIoU over the shard set.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch

from frozenseg.data import collate, decode_annotation, decode_image, resize_for_test
from frozenseg.evaluation import PanopticQuality, SemanticIoU, semantic_labels
from frozenseg.inference.geometry import ImageGeometry
from frozenseg.inference.loading import load_segmenter
from frozenseg.types import EncodedSample
from pipelines.codec import Codec
from pipelines.columns import columns_to_features, features_to_columns
from shards import ShardReader

CODECS: tuple[Codec, ...] = ("float32", "bfloat16", "uint8")


@dataclass(slots=True)
class Row:
    """Sums over images, and the metrics."""

    quality: PanopticQuality
    iou: SemanticIoU
    num_bytes: int = 0
    worst_mask_logit: float = 0.0
    worst_class_score: float = 0.0
    changed_pixels: int = 0
    num_pixels: int = 0


def run(model: str, address: str, limit: int | None) -> dict[Codec, Row]:
    """Encodes each image once and decodes it from each codec."""
    torch.set_num_threads(1)
    segmenter, reader = load_segmenter(model, "cpu"), ShardReader(address)
    vocabulary = reader.manifest.vocabulary
    rows: dict[Codec, Row] = {c: Row(PanopticQuality(vocabulary), SemanticIoU(vocabulary)) for c in CODECS}
    for index in range(min(len(reader), limit or len(reader))):
        _add(segmenter, reader[index], rows)
    return rows


def _add(segmenter, sample: EncodedSample, rows: dict[Codec, Row]) -> None:  # type: ignore[no-untyped-def]
    options, truth = segmenter.options, decode_annotation(sample)
    image = resize_for_test(
        decode_image(sample.image_bytes, sample.image_id), options.shortest_side, options.longest_side
    )
    batch = collate([image])
    geometry = ImageGeometry(
        padded_size=tuple(batch.images.shape[-2:]),
        valid_size=tuple(image.image.shape[1:]),
        output_size=image.original_size,
    )
    features = segmenter.model.encode(batch)
    vocabulary = next(iter(rows.values())).quality.vocabulary
    reference = None
    for codec, row in rows.items():
        columns = features_to_columns(features, codec)
        row.num_bytes += sum(array.nbytes for name, array in columns.items() if name.startswith(("clip_", "sam")))
        decoded = columns_to_features([columns], torch.float32)
        prediction = segmenter.predict_features(decoded, [geometry], vocabulary)[0]
        labels = prediction.semantic()
        if reference is None:
            reference = (prediction, labels)
        row.worst_mask_logit = max(
            row.worst_mask_logit, float((prediction.mask_logits - reference[0].mask_logits).abs().max())
        )
        row.worst_class_score = max(
            row.worst_class_score, float((prediction.class_scores.exp() - reference[0].class_scores.exp()).abs().max())
        )
        row.changed_pixels += int((labels != reference[1]).sum())
        row.num_pixels += labels.numel()
        row.quality.update(prediction.panoptic(), truth, sample.image_id)
        row.iou.update(labels, semantic_labels(truth), sample.image_id)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--shards", required=True)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    rows = run(arguments.model, arguments.shards, arguments.limit)
    print("codec      kB/image  max |d mask logit|  max |d class prob|  changed pixels      PQ    mIoU")
    for codec, row in rows.items():
        count = row.quality.compute().num_images
        print(
            f"{codec:10} {row.num_bytes / count / 1e3:8.1f} {row.worst_mask_logit:19.5f} {row.worst_class_score:19.5f} "
            f"{row.changed_pixels / row.num_pixels:14.3%} {100 * row.quality.compute().all.pq:8.2f} "
            f"{100 * row.iou.compute().miou:7.2f}"
        )


if __name__ == "__main__":
    main()
