"""The miniature world as a shard set, without a COCO data set on disk in between: for a first run of the trainer."""

from __future__ import annotations

from typing import Literal

from frozenseg.miniature import encoded_sample, full_vocabulary, train_scenes, training_vocabulary, val_scenes
from frozenseg.types import ShardManifest
from shards import FORMAT_VERSION, Storage, encode_sample, plan_shards, write_manifest, write_shard_to


def write_miniature_shards(
    address: str,
    split: Literal["train", "val"] = "train",
    num_scenes: int = 400,
    scenes_per_shard: int = 100,
    seed: int = 0,
) -> None:
    """Writes a set of scenes: of base categories for `train`, of all categories and a series of its own for `val`.

    The manifest comes last: a set that was broken off is none, and is written anew.
    """
    scenes_of, vocabulary = (
        (train_scenes, training_vocabulary()) if split == "train" else (val_scenes, full_vocabulary())
    )
    storage, files, columns = Storage(address), [], set[str]()
    for plan in plan_shards(num_scenes, scenes_per_shard, f"miniature-{split}", seed=None):
        scenes = scenes_of(len(plan.indices), seed, plan.indices[0])
        samples = [
            encoded_sample(scene, f"{split}-{index:06d}", vocabulary)
            for index, scene in zip(plan.indices, scenes, strict=True)
        ]
        columns.update(name.split(".", 1)[1] for name, _ in encode_sample(samples[0]))
        files.append(write_shard_to(storage, plan.name, samples))
    write_manifest(
        storage,
        ShardManifest(
            format_version=FORMAT_VERSION,
            files=tuple(files),
            columns=tuple(sorted(columns)),
            vocabulary=vocabulary,
            vocabulary_hash=vocabulary.content_hash,
            source={"kind": "miniature", "split": split, "seed": str(seed)},
            skipped=(),
        ),
    )
