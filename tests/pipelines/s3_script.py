"""Labels from an S3 server to it: a folder, a tar and a Parquet file, then once more. Runs where s3fs is installed.

Arguments: model folder, folder of images, vocabulary. Prints a JSON line.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.label import label
from pipelines.labeling.options import LabelOptions
from pipelines.segmenter_pool import PoolOptions, SegmenterSource
from shards import Storage
from shards.__main__ import check


def main() -> None:
    model, images, vocabulary = sys.argv[1:4]
    filesystem = fsspec.filesystem("s3")
    filesystem.mkdir("bucket")
    pictures = {path.name: path.read_bytes() for path in sorted(Path(images).iterdir())}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in pictures.items():
            filesystem.pipe_file(f"bucket/folder/{name}", data)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    filesystem.pipe_file("bucket/tars/a.tar", packed.getvalue())
    table = io.BytesIO()
    pq.write_table(pa.table({"image": list(pictures.values())}), table, row_group_size=2)
    filesystem.pipe_file("bucket/tables/a.parquet", table.getvalue())
    found = {}
    for kind in ("folder", "tars", "tables"):
        options = LabelOptions(
            to=f"s3://bucket/labels-{kind}",
            vocabulary=vocabulary,
            formats=("coco-panoptic", "webdataset", "cvat"),
            images_per_part=2,
        )
        source = SegmenterSource(model=model)
        reports = [label(source, f"s3://bucket/{kind}", options, PoolOptions(in_process=True)) for _ in range(2)]
        panoptic = json.loads(Storage(options.to).read_bytes("coco-panoptic/panoptic.json"))
        found[kind] = {
            "labelled": [report.num_labelled for report in reports],
            "segments": [a["segments_info"] for a in panoptic["annotations"]],
            "check": check(f"{options.to}/webdataset"),
            "temporary": [name for name in filesystem.find(f"bucket/labels-{kind}") if ".tmp" in name],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
