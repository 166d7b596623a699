"""What an operator does to a running application: kill replicas, change the model, let it scale; no request is lost."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from frozenseg.inference.loading import model_folder
from frozenseg.model import FrozenSeg, load_model, save_model
from tests.serve.conftest import ARGUMENTS, Server, needs_serve

pytestmark = [pytest.mark.slow, needs_serve]
WAIT_S = 150


@dataclass(slots=True, kw_only=True)
class Load:
    """What clients saw that asked without pause: how many got which status, and which model answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    unclear: list[str] = field(default_factory=list)


@contextmanager
def load(server: Server, clients: int) -> Iterator[Load]:
    """`clients` clients ask until the block ends, every eighth request with the ensemble."""
    seen = Load()
    stop = threading.Event()

    def ask() -> None:
        number = 0
        with httpx.Client(base_url=server.address, timeout=WAIT_S) as client:
            while not stop.is_set():
                number += 1
                options = {"vocabulary": server.vocabulary, "task": "semantic", "ensemble": number % 8 == 3}
                answer = client.post(
                    "/v1/segment", files={"image": ("a", server.image)}, data={"options": json.dumps(options)}
                )
                seen.statuses[answer.status_code] += 1
                if answer.is_success:
                    seen.models[answer.json()["model"]] += 1
                elif answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE or "retry-after" not in answer.headers:
                    seen.unclear.append(f"{answer.status_code} {answer.text[:200]}")

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.2)


def replicas(part: str) -> set[str]:
    import ray

    actors = ray.util.list_named_actors(all_namespaces=True)
    return {a["name"] for a in actors if a["name"].startswith(f"SERVE_REPLICA::frozenseg#{part}#")}


@pytest.mark.parametrize("part", ["Ingress", "Encoders", "SamMaskMaker", "Decoder"])
def test_a_killed_replica_loses_no_accepted_request(server: Server, part: str) -> None:
    """Each request is answered or told clearly to come back; a new replica takes the dead one's place."""
    import ray

    [name] = replicas(part)
    with load(server, 4) as seen:
        until(lambda: seen.statuses[HTTPStatus.OK] > 3)
        ray.kill(ray.get_actor(name, namespace="serve"))
        before = seen.statuses[HTTPStatus.OK]
        until(lambda: seen.statuses[HTTPStatus.OK] > before + 8)
        until(lambda: len(replicas(part) - {name}) == 1)
    assert seen.unclear == []


@pytest.fixture(scope="module")
def second_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature under another name, with other weights in one encoder: its features are not the first one's."""
    model = load_model(model_folder("miniature"))
    assert model.sam is not None
    with torch.no_grad():
        for parameter in model.sam.sam.image_encoder.parameters():
            parameter.mul_(1.001)
    spec = replace(model.spec, name="second")
    folder = tmp_path_factory.mktemp("models") / "second"
    save_model(FrozenSeg(model.clip, model.sam, model.decoder, spec), folder, embed_encoders=True)
    return folder


def deploy(**arguments: Any) -> None:
    """What `serve run` and `serve deploy` do with changed arguments."""
    from ray import serve

    from serve.app import build

    serve.run(build({**ARGUMENTS, **arguments}), name="frozenseg")


def test_a_new_model_takes_over_while_requests_go_on_and_encoders_follow_the_load(
    server: Server, second_model: Path
) -> None:
    # On average the encoders have less than one request here: most of them wait for the decoder.
    scaling = {"max_replicas": 2, "target_ongoing": 0.1, "upscale_delay_s": 0.0, "downscale_delay_s": 1.0}
    old = replicas("Encoders")
    try:
        with load(server, 4) as seen:
            until(lambda: seen.statuses[HTTPStatus.OK] > 3)
            deploy(model=str(second_model), encoders=scaling)
            before = seen.models["second"]
            until(lambda: seen.models["second"] > before + 8)
            until(lambda: len(replicas("Encoders") - old) == 2)
        assert seen.unclear == []
        assert set(seen.statuses) == {HTTPStatus.OK}, seen.statuses
        assert set(seen.models) == {"miniature", "second"}, "both models answered, and nothing else did"
        until(lambda: len(replicas("Encoders") - old) == 1)
    finally:
        deploy()
    with httpx.Client(base_url=server.address, timeout=WAIT_S) as client:
        assert client.get("/v1/models").json()["default"] == "miniature"
