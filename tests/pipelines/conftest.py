"""One small Ray session for all tests that need a real one, a tiny COCO panoptic data set and a tiny model folder."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frozenseg.data import CocoPanoptic, encode_id_map
from frozenseg.model import build_model, save_model
from pipelines.segmenter_pool import SegmenterSource
from tests.model.tiny import tiny_spec
from tests.pipelines.s3_server import s3_server


@pytest.fixture(scope="session")
def ray_environment() -> dict[str, str]:
    """Variables for a process of a test that imports ray; tests/conftest.py set the others for the whole run."""
    return {"PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="session")
def ray_session(ray_environment: dict[str, str]) -> Iterator[None]:
    """4 logical CPUs, 300 MB of shared memory, no dashboard; ends with the test session."""
    from pipelines import ray_session

    os.environ.update(ray_environment)
    options = ray_session.RayOptions(num_cpus=4, num_gpus=0, object_store_mb=300, dashboard=False)
    with ray_session.session(options=options):
        yield


@pytest.fixture
def s3_environment(pytestconfig: pytest.Config) -> Iterator[dict[str, str]]:
    """The environment of a process that is to use an empty S3 server of this machine."""
    with s3_server(Path(pytestconfig.cache.mkdir("s3")) / "packages") as environment:
        yield environment


def png_bytes(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def make_coco(tmp_path: Path) -> Callable[..., CocoPanoptic]:
    """`make_coco(num_images, folder="coco")`: 40x60 pixels, a thing, a stuff segment and a void column each."""

    def make(num_images: int, folder: str = "coco") -> CocoPanoptic:
        root = tmp_path / folder
        for name in ("images", "panoptic"):
            (root / name).mkdir(parents=True, exist_ok=True)
        content: dict[str, list[object]] = {
            "categories": [
                {"id": 3, "name": "red button", "isthing": 1},
                {"id": 9, "name": "water", "isthing": 0},
            ],
            "images": [],
            "annotations": [],
        }
        for number in range(num_images):
            random = np.random.default_rng(number)
            pixels = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            ids = np.full((40, 60), 2, dtype=np.int32)
            ids[5:25, 10:40] = 1
            ids[:, -1] = 0
            Image.fromarray(pixels).save(root / "images" / f"{number}.jpg")
            (root / "panoptic" / f"{number}.png").write_bytes(encode_id_map(ids))
            content["images"].append({"id": number, "file_name": f"{number}.jpg", "height": 40, "width": 60})
            content["annotations"].append(
                {
                    "image_id": number,
                    "file_name": f"{number}.png",
                    "segments_info": [
                        {"id": 1, "category_id": 3, "area": 600, "iscrowd": 0},
                        {"id": 2, "category_id": 9, "area": 1760, "iscrowd": 0},
                    ],
                }
            )
        (root / "panoptic.json").write_text(json.dumps(content))
        return CocoPanoptic(root / "panoptic.json", root / "images", root / "panoptic")

    return make


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> SegmenterSource:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_model(build_model(tiny_spec()), folder)
    return SegmenterSource(model=str(folder))
