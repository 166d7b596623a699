"""Sharded image sets: webdataset tars with a manifest. The format is specified in README.md beside this file."""

from shards.manifest import FORMAT_VERSION, MANIFEST_NAME, read_manifest, write_manifest
from shards.members import BadSampleError, DamagedShardError, RawSample, encode_sample, image_extension
from shards.order import ShardPlan, epoch_order, plan_shards, split_order
from shards.reader import ShardReader
from shards.storage import Storage
from shards.writer import write_shard, write_shard_to

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "BadSampleError",
    "DamagedShardError",
    "RawSample",
    "ShardPlan",
    "ShardReader",
    "Storage",
    "encode_sample",
    "epoch_order",
    "image_extension",
    "plan_shards",
    "read_manifest",
    "split_order",
    "write_manifest",
    "write_shard",
    "write_shard_to",
]
