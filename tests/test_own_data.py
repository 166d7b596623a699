"""docs/own-data.md, command by command, on a few scenes of the miniature world with instance annotations."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from frozenseg.data import CocoPanoptic, decode_annotation
from frozenseg.data.objects import objects_of
from frozenseg.miniature.dataset import write_dataset

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "import sys; from frozenseg.cli import main; sys.exit(main())"


def own_instances(world: Path, root: Path) -> None:
    """The miniature world's things as COCO instances."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        data = CocoPanoptic(
            world / f"annotations/panoptic_{split}.json", world / split, world / f"annotations/panoptic_{split}"
        )
        (root / split).symlink_to(world / split)
        images, annotations = [], []
        for number, sample in enumerate(data, start=1):
            truth = objects_of(decode_annotation(sample), sample.image_id)
            size = {"height": truth.size[0], "width": truth.size[1]}
            images.append({"id": number, "file_name": sample.file_name, **size})
            for one in truth.objects:
                assert one.mask is not None
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": one.category_id + 1,
                        "segmentation": {"size": list(one.mask.size), "counts": one.mask.counts},
                        "bbox": list(one.box),
                        "area": one.area,
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": k, "name": c.name} for k, c in enumerate(data.vocabulary.categories, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))


def commands(data: Path, run: Path) -> list[list[str]]:
    """The page's commands, with the folders of this test."""
    [block] = re.findall(r"## The way\n\n```\n(.*?)```", (ROOT / "docs/own-data.md").read_text(), flags=re.DOTALL)
    text = block.replace("mydata", str(data)).replace("runs/mine", str(run))
    return [shlex.split(line) for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_way_of_own_data(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    own_instances(write_dataset(tmp_path / "world", 8, 3, 0), data)
    *jobs, serving = commands(data, run)
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore"}
    for job in jobs:
        command = [sys.executable, "-c", COMMAND, *job[1:]] if job[0] == "frozenseg" else [sys.executable, *job[1:]]
        if "ray_jobs/train.py" in job:
            command += ["--steps", "3"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{job}: {done.stdout[-2000:]} {done.stderr[-3000:]}"
    assert (data / "sheet.png").is_file()
    metrics = json.loads((run / "evaluation/metrics.json").read_text())
    assert metrics["num_images"] == 3
    assert 0 <= metrics["scores"]["instances"]["ap"] <= 1
    assert (run / "evaluation/predictions/instances.json").is_file()

    [model] = [argument for argument in serving if argument.startswith("model=")]
    script = ROOT / "tests" / "serve_once.py"
    picture = sorted((data / "val").iterdir())[0]
    names = json.loads((data / "annotations/instances_val.json").read_text())["categories"]
    vocabulary = "; ".join(category["name"] for category in names)
    command = [sys.executable, str(script), model.removeprefix("model="), str(picture), vocabulary]
    done = subprocess.run(
        command, cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "segments" in done.stdout
