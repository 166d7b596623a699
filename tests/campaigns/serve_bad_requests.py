"""Sends generated bad requests to a running server, good ones beside them, and checks that only the bad ones suffer.

python tests/campaigns/serve_bad_requests.py --address http://127.0.0.1:8000 --count 1000 --seed 0

Half come from schemathesis and the server's own OpenAPI document, half are hostile images of every format, wrong
options, broken JSON and broken forms. Passes when every bad request gets a 4xx in the one error shape, every good
request succeeds, and, for a server on this machine, no replica's memory grows after the first quarter.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.campaigns.bad_request import BadRequest, bad_request
from tests.campaigns.serve_schema_requests import schema_requests
from tests.campaigns.server_memory import MemoryWatch

GOOD_EVERY = 20


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of the campaign; `failures` has the first lines to look at."""

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    num_good: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.failures and self.num_good > 0


def bad_requests(client: httpx.Client, count: int, seed: int, good_image: bytes) -> list[BadRequest]:
    """`count` of both kinds, mixed."""
    document = client.get("/openapi.json").raise_for_status().json()
    dice = random.Random(seed)
    found = schema_requests(document, count // 2, seed)[: count // 2]
    found += [bad_request(dice, good_image) for _ in range(count - len(found))]
    dice.shuffle(found)
    return found


def run_campaign(
    address: str, count: int, seed: int, good_image: bytes, vocabulary: str, watch: MemoryWatch | None = None
) -> Outcome:
    """`count` bad requests, a good one beside every twenty, and what came of them."""
    outcome = Outcome()

    def send(bad: BadRequest) -> httpx.Response:
        headers = {"Content-Type": bad.content_type}
        return client.request(bad.method, bad.path, content=bad.content, headers=headers)

    def send_good() -> httpx.Response:
        data = {"options": json.dumps({"vocabulary": vocabulary})}
        return client.post("/v1/segment", files={"image": ("a", good_image)}, data=data)

    def settle(number: int, good: Future[httpx.Response]) -> None:
        outcome.num_good += good.result().is_success
        if not good.result().is_success:
            outcome.failures.append(f"{number} a good request: {good.result().status_code} {good.result().text[:200]}")

    with httpx.Client(base_url=address, timeout=120) as client, ThreadPoolExecutor(1) as beside:
        good = beside.submit(send_good)
        for number, bad in enumerate(bad_requests(client, count, seed, good_image)):
            if number % GOOD_EVERY == GOOD_EVERY - 1:
                settle(number, good)
                good = beside.submit(send_good)
                if watch is not None:
                    watch.look()
            answer = send(bad)
            outcome.statuses[answer.status_code] += 1
            outcome.kinds[bad.kind] += 1
            shaped = answer.headers.get("content-type") == "application/problem+json"
            if not (400 <= answer.status_code < 500 and shaped):
                outcome.failures.append(f"{number} {bad}: {answer.status_code} {answer.text[:200]}")
        settle(count, good)
    return outcome


def first_example(address: str) -> tuple[bytes, str]:
    """An image and names that the server's default model can work with."""
    with httpx.Client(base_url=address, timeout=60) as client:
        model = client.get("/v1/models").raise_for_status().json()["models"][0]
        return client.get(model["examples"][0]).raise_for_status().content, model["suggested_vocabulary"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    image, vocabulary = first_example(arguments.address)
    watch = MemoryWatch(arguments.address)
    outcome = run_campaign(arguments.address, arguments.count, arguments.seed, image, vocabulary, watch)
    print(json.dumps({"statuses": outcome.statuses, "kinds": outcome.kinds, "good": outcome.num_good}, indent=1))
    print(watch.report())
    print("\n".join(outcome.failures[:20]))
    passed = outcome.passed and not watch.grown()
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
