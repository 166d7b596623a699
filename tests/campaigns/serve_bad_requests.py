"""Sends generated bad requests to a running server, good ones beside them, and checks that only the bad ones suffer.

python tests/campaigns/serve_bad_requests.py --address http://127.0.0.1:8000 --count 1000 --seed 0

Passes when every bad request gets a 4xx in the one error shape and every good request succeeds. With --pids the
memory of those processes is stated before and after.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO")
GOOD_EVERY = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRequest:
    """One request that must be refused; `kind` names how it was made."""

    kind: str
    content: bytes
    content_type: str
    path: str = "/v1/segment"


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


def picture(dice: random.Random, form: str) -> bytes:
    """A small valid picture of noise."""
    side = dice.randint(8, 64)
    pixels = np.random.default_rng(dice.getrandbits(32)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(dice: random.Random) -> bytes:
    """A few bytes that promise hundreds of megapixels, or a size that no picture has."""
    width, height = dice.choice([(30_000, 30_000), (2**31 - 1, 2**31 - 1), (0, 10), (65_535, 65_535), (2**31, 1)])
    head = struct.pack(">IIBBBBB", width, height, 8, dice.choice([0, 2, 6]), 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(2000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def hostile_image(dice: random.Random) -> tuple[str, bytes]:
    """Bytes that are no picture: cut short within the head, from a promise of too many pixels, or never one."""
    form = dice.choice(FORMATS)
    whole = picture(dice, form)
    make: dict[str, Callable[[], bytes]] = {
        f"{form} cut in its head": lambda: whole[: dice.randint(1, 12)],
        f"{form} with a broken magic": lambda: bytes([whole[0] ^ 0xFF, whole[1] ^ 0xFF]) + bytes(len(whole) - 2),
        "huge PNG": lambda: huge_png(dice),
        "noise": lambda: dice.randbytes(dice.randint(1, 4000)),
        "zeros": lambda: bytes(dice.randint(1, 4000)),
        "text": lambda: b"<svg onload=alert(1)>" * dice.randint(1, 20),
        "half PNG": lambda: (png := picture(dice, "PNG"))[: len(png) // 2],
        "half JPEG": lambda: (jpeg := picture(dice, "JPEG"))[: len(jpeg) // 3],
        "empty": lambda: b"",
        "PDF": lambda: b"%PDF-1.7\n" + dice.randbytes(200),
        "zip": lambda: b"PK\x03\x04" + dice.randbytes(200),
    }
    kind = dice.choice(sorted(make))
    return kind, make[kind]()


WRONG_OPTIONS: tuple[object, ...] = (
    {}, [], None, 7, "text", {"vocabulary": None}, {"vocabulary": 7}, {"vocabulary": ""}, {"vocabulary": ";;;"},
    {"vocabulary": []}, {"vocabulary": [{}]}, {"vocabulary": [{"name": ""}]}, {"vocabulary": [{"name": "a", "x": 1}]},
    {"vocabulary": "@../../etc/passwd"}, {"vocabulary": "x" * 10_000}, {"vocabulary": "grass;grass"},
    {"vocabulary": "grass(stuff)(thing)"}, {"vocabulary": "grass\u0000"}, {"vocabulary": "\ud800"},
    {"vocabulary": "grass", "task": "all"}, {"vocabulary": "grass", "task": None},
    {"vocabulary": "grass", "top_k": -1}, {"vocabulary": "grass", "top_k": 10**30},
    {"vocabulary": "grass", "min_score": "high"}, {"vocabulary": "grass", "min_score": 1e308},
    {"vocabulary": "grass", "format": "exe"}, {"vocabulary": "grass", "model": "../../x"},
    {"vocabulary": "grass", "__proto__": {}}, {"vocabulary": "zebra crossing; \u202eevil"},
)  # fmt: skip


def form_body(image: bytes | None, options: str | None, boundary: str = "b0undary") -> bytes:
    parts = []
    if image is not None:
        parts.append(b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + image)
    if options is not None:
        text = options.encode("utf-8", "surrogatepass")
        parts.append(b'Content-Disposition: form-data; name="options"\r\n\r\n' + text)
    opened = b"".join(f"--{boundary}\r\n".encode() + part + b"\r\n" for part in parts)
    return opened + f"--{boundary}--\r\n".encode()


def bad_request(dice: random.Random, good_image: bytes) -> BadRequest:
    """The next bad request of a seeded generator."""
    form = "multipart/form-data; boundary=b0undary"
    good_options = json.dumps({"vocabulary": "grass"})
    choice = dice.randrange(8)
    if choice <= 2:
        kind, image = hostile_image(dice)
        if dice.random() < 0.5:
            return BadRequest(kind=kind, content=form_body(image, good_options), content_type=form)
        body = {"image": {"base64": base64.b64encode(image).decode()}, "options": {"vocabulary": "grass"}}
        return BadRequest(kind=kind, content=json.dumps(body).encode(), content_type="application/json")
    if choice <= 4:
        options = json.dumps(dice.choice(WRONG_OPTIONS))
        if dice.random() < 0.5:
            return BadRequest(kind="options", content=form_body(good_image, options), content_type=form)
        content = f'{{"image": {{"base64": "{base64.b64encode(good_image).decode()}"}}, "options": {options}}}'
        return BadRequest(kind="options", content=content.encode(), content_type="application/json")
    if choice == 5:
        whole = json.dumps({"image": {"base64": "aGFsbG8="}, "options": {"vocabulary": "grass"}}).encode()
        cut = whole[: dice.randrange(len(whole))]
        broken = dice.choice([cut, b"[" * 100_000, b"\xff\xfe" + whole, dice.randbytes(300), b"nul", b"1e999999"])
        path = dice.choice(["/v1/segment", "/v1/segment/batch"])
        return BadRequest(kind="broken JSON", content=broken, content_type="application/json", path=path)
    if choice == 6:
        whole = form_body(good_image, good_options)
        broken = dice.choice(
            [
                form_body(None, good_options), form_body(good_image, None), b"", dice.randbytes(500),
                whole[: dice.randrange(60, 110)], form_body(good_image, good_options, "another"),
                whole.replace(b'name="image"', b'name="picture"'),
            ]
        )  # fmt: skip
        return BadRequest(kind="broken form", content=broken, content_type=form)
    images = [{"url": "file:///etc/passwd"}, {"url": "http://169.254.169.254/"}, {}, {"base64": "?"}, {"path": "/"}]
    body = {"image": dice.choice(images), "options": {"vocabulary": "grass"}}
    kind = dice.choice(["application/json", "text/plain", "", "application/xml", "multipart/form-data"])
    return BadRequest(kind="image or type", content=json.dumps(body).encode(), content_type=kind)


def run_campaign(address: str, count: int, seed: int, good_image: bytes, vocabulary: str) -> Outcome:
    """`count` bad requests, a good one after every twenty, and what came of them."""
    dice = random.Random(seed)
    outcome = Outcome()
    with httpx.Client(base_url=address, timeout=120) as client:
        for number in range(count):
            bad = bad_request(dice, good_image)
            answer = client.post(bad.path, content=bad.content, headers={"Content-Type": bad.content_type})
            outcome.statuses[answer.status_code] += 1
            outcome.kinds[bad.kind] += 1
            shaped = answer.headers.get("content-type") == "application/problem+json"
            if not (400 <= answer.status_code < 500 and shaped):
                outcome.failures.append(f"{number} {bad.kind}: {answer.status_code} {answer.text[:200]}")
            if number % GOOD_EVERY == GOOD_EVERY - 1 or number == count - 1:
                options = {"vocabulary": vocabulary}
                good = client.post(
                    "/v1/segment", files={"image": ("a", good_image)}, data={"options": json.dumps(options)}
                )
                outcome.num_good += good.is_success
                if not good.is_success:
                    outcome.failures.append(f"{number} a good request: {good.status_code} {good.text[:200]}")
    return outcome


def first_example(address: str) -> tuple[bytes, str]:
    """An image and names that the server's default model can work with."""
    with httpx.Client(base_url=address, timeout=60) as client:
        model = client.get("/v1/models").raise_for_status().json()["models"][0]
        return client.get(model["examples"][0]).raise_for_status().content, model["suggested_vocabulary"]


def megabytes(pids: list[int]) -> list[int]:
    """Resident memory of each process, without the pages that it shares."""
    found = []
    for pid in pids:
        fields = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        own = sum(int(line.split()[1]) for line in fields if line.startswith("Private_"))
        found.append(own // 1024)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pids", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    image, vocabulary = first_example(arguments.address)
    before = megabytes(arguments.pids)
    outcome = run_campaign(arguments.address, arguments.count, arguments.seed, image, vocabulary)
    print(json.dumps({"statuses": outcome.statuses, "kinds": outcome.kinds, "good": outcome.num_good}, indent=1))
    if arguments.pids:
        print("megabytes before", before, "after", megabytes(arguments.pids))
    print("\n".join(outcome.failures[:20]))
    print("passed" if outcome.passed else "FAILED")
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main())
