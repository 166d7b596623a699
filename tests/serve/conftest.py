"""One real Serve application with the embedded model, for all tests that speak HTTP to it."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from frozenseg.inference.loading import model_folder

LIMITS = {
    "image_bytes": 300_000,
    "image_pixels": 2_000_000,
    "categories": 30,
    "synonyms": 3,
    "name_length": 40,
    "body_bytes": 1_000_000,
    "images_per_batch": 3,
    "in_flight": 32,
    "timeout_s": 120.0,
}
"""Small ones, so that going past them is cheap."""
ARGUMENTS = {"model": "miniature", "device": "cpu", "limits": LIMITS}
IN_PROCESS = os.environ.get("FROZENSEG_SERVE_TESTS") == "local"
"""The same tests against the routes and parts in this process, without Ray (tests/serve/in_process.py)."""
needs_serve = pytest.mark.skipif(IN_PROCESS, reason="needs Ray Serve; FROZENSEG_SERVE_TESTS=local leaves it out")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running application: where it is, an image that its model can segment, and names in that image's world."""

    address: str
    port: int
    image: bytes
    vocabulary: str
    names: tuple[str, ...]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The application as `serve.app:build` makes it."""
    if not (model_folder("miniature") / "config.json").is_file():
        pytest.skip("needs the embedded model in frozenseg/miniature/model; `make pretrain-miniature` makes it")
    os.environ["PYTHONWARNINGS"] = "ignore"
    if IN_PROCESS:
        from serve.settings import settings_from
        from tests.serve.in_process import serve_in_process

        port = free_port()
        with serve_in_process(settings_from(ARGUMENTS), port):
            yield _describe(port)
        return
    from pipelines import ray_session

    options = ray_session.RayOptions(num_cpus=4, num_gpus=0, object_store_mb=300, dashboard=False)
    with ray_session.session(options=options), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, from several of its modules
        yield from _serve()


def _serve() -> Iterator[Server]:
    from ray import serve

    from serve.app import build

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 150})
    try:
        serve.run(build(ARGUMENTS), name="frozenseg")
        yield _describe(port)
    finally:
        serve.shutdown()


def _describe(port: int) -> Server:
    address = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=address, timeout=120) as client:
        [model] = client.get("/v1/models").raise_for_status().json()["models"]
        image = client.get(model["examples"][0]).raise_for_status().content
    vocabulary = str(model["suggested_vocabulary"])
    return Server(
        address=address,
        port=port,
        image=image,
        vocabulary=vocabulary,
        names=tuple(entry.split(",")[0].split("(")[0].strip() for entry in vocabulary.split(";")),
    )


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=120) as client:
        yield client
