"""Requests that a server must refuse: hostile images, wrong options, broken JSON and forms, from a seed."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import dataclass

from tests.campaigns.hostile_images import hostile_image


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRequest:
    """One request that must be refused; `kind` names how it was made."""

    kind: str
    content: bytes
    content_type: str
    path: str = "/v1/segment"
    method: str = "POST"


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
