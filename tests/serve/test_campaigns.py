"""Hostile requests and long runs against the real application; the scripts run by hand with more."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.campaigns.bad_request import BadRequest, bad_request
from tests.campaigns.serve_bad_requests import run_campaign
from tests.campaigns.serve_soak import run_soak
from tests.campaigns.server_memory import MemoryWatch, replica_megabytes
from tests.serve.conftest import Server, needs_serve


# A form that breaks off leaves Starlette's temporary file to the garbage collector; seen when the server runs in here.
@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")
def test_sixty_bad_requests_get_a_4xx_and_good_ones_beside_them_succeed(server: Server) -> None:
    outcome = run_campaign(server.address, 60, 0, server.image, server.vocabulary)
    assert outcome.failures == []
    assert outcome.num_good == 4
    assert any(kind.startswith("schema ") for kind in outcome.kinds)
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
    watch = MemoryWatch(server.address)
    outcome = run_soak(server.address, 200, 6, 0, watch)
    assert outcome.lost == []
    assert outcome.num_answered == 200
    assert len(watch.looks) == 40


@pytest.mark.parametrize(
    ("looks", "grown"),
    [
        ([100, 300, 310, 305, 312, 308, 311, 309], []),
        ([100, 300, 350, 400, 450, 500, 550, 600], ["Encoders 1"]),
        ([100, 300, 300, 300, 300, 300, 300, 380], ["Encoders 1"]),
        ([100], []),
        ([], []),
    ],
)
def test_growth_is_told_from_a_plateau(looks: list[int], grown: list[str]) -> None:
    watch = MemoryWatch("http://127.0.0.1:8000")
    # A replica that came later is another process and says nothing.
    watch.looks = [{"Encoders 1": megabytes, f"Decoder {i}": 10**i} for i, megabytes in enumerate(looks)]
    assert watch.grown() == grown


@needs_serve
def test_every_part_of_a_server_on_this_machine_is_seen(server: Server) -> None:
    found = replica_megabytes(server.port)
    assert {name.split()[0] for name in found} == {"Ingress", "Encoders", "SamMaskMaker", "Decoder"}
    assert min(found.values()) > 20
