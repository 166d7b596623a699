"""Keeps a running server busy with mixed requests, several at once, and counts what is lost.

python tests/campaigns/serve_soak.py --address http://127.0.0.1:8000 --requests 10000 --at-once 8

Passes when every request is answered and none but a clear 429 or 503 with Retry-After stands between it and its
answer (such a request is sent again), and, for a server on this machine, no replica's memory grows after the first
quarter.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT))

from tests.campaigns.bad_request import bad_request  # noqa: E402
from tests.campaigns.serve_bad_requests import first_example  # noqa: E402
from tests.campaigns.server_memory import MemoryWatch  # noqa: E402

BUSY = (429, 503)
NUM_LOOKS = 40
KINDS = {
    "panoptic": 4, "semantic": 4, "instance": 4, "proposals": 4, "png": 3, "zip": 3, "bad": 4, "models": 3,
    "ensemble": 1,
}  # fmt: skip
"""How often each kind of request comes. The ensemble is the dearest by far, so it is rarer."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """num_answered counts good requests with their answer and bad ones with their 4xx; `lost` has the others."""

    num_answered: int = 0
    num_busy: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def one_request(client: httpx.Client, number: int, seed: int, image: bytes, names: list[str], outcome: Outcome) -> None:
    """One request of a kind that its number decides, until it has an answer."""
    dice = random.Random(f"{seed} {number}")
    [kind] = dice.choices(list(KINDS), list(KINDS.values()))
    options: dict[str, object] = {"vocabulary": "; ".join(dice.sample(names, dice.randint(1, len(names))))}
    if kind in ("png", "zip"):
        options["format"] = kind
    elif kind == "ensemble":
        options.update(task="semantic", ensemble=True)
    elif kind not in ("bad", "models"):
        options["task"] = kind
    expected = range(400, 500) if kind == "bad" else range(200, 201)
    bad = bad_request(dice, image)
    started = time.perf_counter()
    for _ in range(60):
        try:
            if kind == "models":
                answer = client.get("/v1/models")
            elif kind == "bad":
                answer = client.post(bad.path, content=bad.content, headers={"Content-Type": bad.content_type})
            else:
                files, data = {"image": ("a", image)}, {"options": json.dumps(options)}
                answer = client.post("/v1/segment", files=files, data=data)
        except httpx.HTTPError as error:
            outcome.lost.append(f"{number} {kind}: {error!r}")
            return
        if answer.status_code not in BUSY or "retry-after" not in answer.headers:
            break
        outcome.num_busy += 1
        time.sleep(float(answer.headers["retry-after"]))
    outcome.kinds[kind] += 1
    if answer.status_code in expected:
        outcome.num_answered += 1
        outcome.seconds.append(time.perf_counter() - started)
    else:
        outcome.lost.append(f"{number} {kind}: {answer.status_code} {answer.text[:200]}")


def run_soak(address: str, requests: int, at_once: int, seed: int, watch: MemoryWatch | None = None) -> Outcome:
    """`requests` requests, `at_once` of them in flight; the memory is looked at now and then."""
    image, vocabulary = first_example(address)
    names = [entry.strip() for entry in vocabulary.split(";")]
    outcome = Outcome()
    with httpx.Client(base_url=address, timeout=180) as client, ThreadPoolExecutor(at_once) as pool:
        answers = pool.map(lambda n: one_request(client, n, seed, image, names, outcome), range(requests))
        for number, _ in enumerate(answers):
            if number % max(1, requests // NUM_LOOKS) == 0:
                print(f"soak: {number}/{requests}, {len(outcome.lost)} lost", flush=True)
                if watch is not None:
                    watch.look()
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    watch = MemoryWatch(arguments.address)
    outcome = run_soak(arguments.address, arguments.requests, arguments.at_once, arguments.seed, watch)
    seconds = sorted(outcome.seconds)
    print(f"{outcome.num_answered} of {arguments.requests} answered, {outcome.num_busy} times told to wait")
    if seconds:
        print(f"seconds p50 {seconds[len(seconds) // 2]:.3f} p95 {seconds[int(len(seconds) * 0.95)]:.3f}")
    print("kinds", json.dumps(outcome.kinds))
    print(watch.report())
    print("\n".join(outcome.lost[:20]))
    return 0 if outcome.num_answered == arguments.requests and not watch.grown() else 1


if __name__ == "__main__":
    sys.exit(main())
