"""Hostile requests, long runs and dying replicas against the real application; the scripts run by hand with more."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import httpx
import pytest

from tests.campaigns.serve_bad_requests import BadRequest, bad_request, run_campaign
from tests.campaigns.serve_soak import run_soak
from tests.serve.conftest import Server, needs_serve


# A form that breaks off leaves Starlette's temporary file to the garbage collector; seen when the server runs in here.
@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")
def test_sixty_bad_requests_get_a_4xx_and_good_ones_beside_them_succeed(server: Server) -> None:
    outcome = run_campaign(server.address, 60, 0, server.image, server.vocabulary)
    assert outcome.failures == []
    assert outcome.num_good == 3
    assert len(outcome.kinds) >= 8
    assert {413, 415, 422} & set(outcome.statuses)


def test_the_generator_repeats_itself_and_makes_many_kinds(server: Server) -> None:
    import random

    def make(seed: int) -> list[BadRequest]:
        dice = random.Random(seed)
        return [bad_request(dice, server.image) for _ in range(200)]

    assert make(3) == make(3) != make(4)
    assert len(Counter(bad.kind for bad in make(3))) > 15


@pytest.mark.slow
def test_two_hundred_mixed_requests_lose_none(server: Server) -> None:
    outcome = run_soak(server.address, 200, 6, 0)
    assert outcome.lost == []
    assert outcome.num_answered == 200


@pytest.mark.slow
@needs_serve
def test_a_killed_decoder_loses_no_accepted_request(server: Server) -> None:
    """Each request is answered or told clearly to come back; afterwards all is well again."""
    import ray

    def ask(_: int) -> int:
        with httpx.Client(base_url=server.address, timeout=150) as client:
            options = json.dumps({"vocabulary": server.vocabulary})
            answer = client.post("/v1/segment", files={"image": ("a", server.image)}, data={"options": options})
        if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            assert answer.headers["retry-after"]
            assert answer.headers["content-type"] == "application/problem+json"
        return answer.status_code

    def decoders() -> list[str]:
        actors = ray.util.list_named_actors(all_namespaces=True)
        return [a["name"] for a in actors if a["name"].startswith("SERVE_REPLICA::frozenseg#Decoder#")]

    [name] = decoders()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(40)]
        asked[3].result()
        ray.kill(ray.get_actor(name, namespace="serve"))
        statuses = Counter(request.result() for request in asked)
    assert set(statuses) <= {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}, statuses
    assert statuses[HTTPStatus.OK] > 4, statuses
    assert ask(0) == HTTPStatus.OK
    assert decoders() != [name]
