"""Shards from an S3 server to it: written by Ray tasks, finished after an interruption, read, damaged. Runs where s3fs
is installed.

Argument: folder of a COCO panoptic data set with `panoptic.json`, `images` and `panoptic`. Prints a JSON line.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import fsspec

import pipelines.shard
from frozenseg.data import CocoPanoptic
from frozenseg.errors import UserInputError
from pipelines import ray_session
from pipelines.ray_session import RayOptions
from pipelines.shard import ShardOptions, shard_coco, write_job
from shards import ShardReader, epoch_order
from shards.__main__ import check

ADDRESS = "s3://bucket/shards"
PER_SHARD = 2


class Elsewhere:
    """Another machine's view of the set: a client of its own, which shares no cache with the one under test."""

    def __init__(self) -> None:
        self.client = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)

    def objects(self) -> dict[str, bytes]:
        return {path.split("/", 2)[2]: self.client.cat_file(path) for path in self.client.find(ADDRESS)}

    def put(self, name: str, data: bytes) -> None:
        self.client.pipe_file(f"{ADDRESS}/{name}", data)

    def delete(self, name: str) -> None:
        self.client.rm_file(f"{ADDRESS}/{name}")


def source_at(root: str) -> CocoPanoptic:
    return CocoPanoptic(f"{root}/panoptic.json", f"{root}/images", f"{root}/panoptic")


def error_of(work: Any) -> str:
    try:
        work()
    except UserInputError as error:
        return str(error)
    return ""


def die_after_two(jobs: Any) -> Any:
    for job in jobs[:2]:
        yield write_job(job)
    raise KeyboardInterrupt


def main() -> None:
    local = Path(sys.argv[1])
    elsewhere, found = Elsewhere(), dict[str, Any]()
    elsewhere.client.mkdir("bucket")
    elsewhere.client.put(str(local), "bucket/coco", recursive=True)
    source = source_at("s3://bucket/coco")
    options = ShardOptions(to=ADDRESS, samples_per_shard=PER_SHARD)

    with_ray, pipelines.shard._run = pipelines.shard._run, die_after_two
    try:
        shard_coco(source, options)
    except KeyboardInterrupt:
        found["unfinished"] = error_of(lambda: ShardReader(ADDRESS))
    pipelines.shard._run = with_ray
    with ray_session.session(options=RayOptions(num_cpus=2, num_gpus=0, object_store_mb=100, dashboard=False)):
        written = [shard_coco(source, options).num_written for _ in range(2)]
        whole = elsewhere.objects()
        found["check"] = check(ADDRESS)
        # What another machine does to the set must count, not what this process remembers of it.
        elsewhere.delete("shard-000001.tar")
        elsewhere.put("shard-000003.tar", b"torn")
        written.append(shard_coco(source, options).num_written)
    found["written"] = written
    found["same_again"] = elsewhere.objects() == whole
    found["names"] = sorted(whole)

    pipelines.shard._run = lambda jobs: map(write_job, jobs)
    shard_coco(source_at(str(local)), ShardOptions(to=str(local / "shards"), samples_per_shard=PER_SHARD))
    here, there = ShardReader(local / "shards"), ShardReader(ADDRESS)
    found["same_tars"] = all(whole[f.name] == (local / "shards" / f.name).read_bytes() for f in here.manifest.files)
    found["in_order"] = list(there) == list(here)
    order = [int(index) for index in epoch_order(len(there), 0, 0)]
    found["one_by_one"] = [there[index] for index in order] == [here[index] for index in order]
    with tarfile.open(fileobj=io.BytesIO(whole["shard-000000.tar"])) as tar:
        first = {name: tar.extractfile(name).read() for name in tar.getnames()}
    found["by_tar"] = first[f"{here[0].image_id}.jpg"] == here[0].image_bytes

    flipped = bytearray(whole["shard-000002.tar"])
    flipped[700] ^= 1
    elsewhere.put("shard-000002.tar", bytes(flipped))
    found["flipped"] = error_of(lambda: there.verify(there.manifest.files[2]))
    elsewhere.put("shard-000002.tar", whole["shard-000002.tar"][:1500])
    found["short"] = error_of(lambda: list(there.read(there.manifest.files[2])))
    found["short_sample"] = error_of(lambda: there[2 * PER_SHARD])
    elsewhere.delete("shard-000002.tar")
    found["lost"] = error_of(lambda: list(there))
    found["lost_sample"] = error_of(lambda: there[2 * PER_SHARD])
    found["damaged"] = check(ADDRESS)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
