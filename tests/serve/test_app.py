"""The whole application over HTTP, with a real model behind it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import socket
import struct
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from serve import openapi
from serve.schema import SegmentResponse
from tests.serve.conftest import LIMITS, Server

TASKS = ("panoptic", "semantic", "instance", "proposals")


def post(http: httpx.Client, image: bytes, options: object, **more: Any) -> httpx.Response:
    text = options if isinstance(options, str) else json.dumps(options)
    return http.post("/v1/segment", files={"image": ("image", image)}, data={"options": text}, **more)


def ask(http: httpx.Client, server: Server, **options: object) -> httpx.Response:
    answer = post(http, server.image, {"vocabulary": server.vocabulary, **options})
    assert answer.status_code == HTTPStatus.OK, answer.text
    return answer


def mask_of(segment: dict[str, Any]) -> np.ndarray:
    rle = {"size": segment["mask"]["size"], "counts": segment["mask"]["counts"].encode()}
    return np.asarray(coco_mask.decode(rle), dtype=bool)


def ids_of(png: bytes) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(np.int64)
    return np.asarray(pixels @ [1, 256, 65536])


@pytest.mark.parametrize("task", TASKS)
def test_every_task_answers_with_segments_that_agree_with_themselves(
    http: httpx.Client, server: Server, task: str
) -> None:
    answer = ask(http, server, task=task)
    body = answer.json()
    size = Image.open(io.BytesIO(server.image)).size[::-1]
    assert (body["task"], tuple(body["size"])) == (task, size)
    assert [c["name"] for c in body["categories"]] == list(server.names)
    assert {c["seen"] for c in body["categories"]} == {True, False}
    assert body["segments"]
    assert len({s["id"] for s in body["segments"]}) == len(body["segments"])
    for segment in body["segments"]:
        mask = mask_of(segment)
        assert mask.shape == size
        assert segment["area"] == mask.sum() > 0
        assert 0 <= segment["score"] <= 1
        rows, columns = np.nonzero(mask)
        x, y, width, height = segment["bbox"]
        assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        if task == "proposals":
            assert segment["category_id"] is segment["category"] is segment["is_thing"] is None
        else:
            assert segment["category"] == server.names[segment["category_id"]]
    if task in ("panoptic", "semantic"):
        total = sum(mask_of(s).astype(int) for s in body["segments"])
        assert np.max(total) == 1


def test_the_request_id_comes_once_and_is_the_same_everywhere(http: httpx.Client, server: Server) -> None:
    answer = ask(http, server)
    assert answer.headers.get_list("x-request-id") == [answer.json()["request_id"]]
    named = post(http, server.image, {"vocabulary": server.vocabulary}, headers={"X-Request-Id": "job-7"})
    assert named.headers.get_list("x-request-id") == ["job-7"]
    assert named.json()["request_id"] == "job-7"
    refused = http.post("/v1/segment", headers={"X-Request-Id": "job-8", "Content-Type": "text/plain"})
    assert refused.headers.get_list("x-request-id") == ["job-8"]
    assert refused.json()["request_id"] == "job-8"


def test_times_by_stage_are_in_the_head(http: httpx.Client, server: Server) -> None:
    header = ask(http, server).headers["server-timing"]
    assert re.fullmatch(r"\w+;dur=\d+\.\d(, \w+;dur=\d+\.\d)*", header)
    assert [part.split(";")[0] for part in header.split(", ")] == [
        *("image", "encode", "text", "decode", "segments", "render")
    ]


def test_the_ensemble_runs_with_sams_masks(http: httpx.Client, server: Server) -> None:
    answer = ask(http, server, task="semantic", ensemble=True)
    timing = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert float(timing["sam_masks"]) > 0
    assert answer.json()["segments"]


def test_label_maps_overlays_and_the_zip_say_the_same_as_the_json(http: httpx.Client, server: Server) -> None:
    segments = ask(http, server).json()["segments"]
    expected = sum(segment["id"] * mask_of(segment).astype(np.int64) for segment in segments)

    labels = ask(http, server, format="png")
    assert labels.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(ids_of(labels.content), expected)

    overlay = ask(http, server, format="overlay")
    assert overlay.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(overlay.content)).width >= Image.open(io.BytesIO(server.image)).width

    whole = ask(http, server, format="zip")
    assert whole.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(whole.content)) as archive:
        assert sorted(archive.namelist()) == ["overlay.png", "segments.json", "segments.png"]
        np.testing.assert_array_equal(ids_of(archive.read("segments.png")), expected)
        assert json.loads(archive.read("segments.json"))["segments"] == segments


def test_the_json_form_answers_like_the_multipart_form(http: httpx.Client, server: Server) -> None:
    image = {"base64": base64.b64encode(server.image).decode()}
    answer = http.post("/v1/segment", json={"image": image, "options": {"vocabulary": server.vocabulary}})
    assert answer.json()["segments"] == ask(http, server).json()["segments"]


def test_a_list_of_categories_and_thresholds(http: httpx.Client, server: Server) -> None:
    first, second = server.names[:2]
    vocabulary = [{"name": first, "is_thing": False}, {"name": second, "synonyms": [server.names[2]]}]
    body = ask(http, server, vocabulary=vocabulary, object_threshold=0.0).json()
    assert [(c["name"], c["is_thing"], c["synonyms"]) for c in body["categories"]] == [
        (first, False, []),
        (second, True, [server.names[2]]),
    ]
    assert ask(http, server, min_score=1.0).json()["segments"] == []
    assert len(ask(http, server, task="instance", top_k=1).json()["segments"]) == 1


def test_a_bad_image_in_a_batch_hurts_no_other(http: httpx.Client, server: Server) -> None:
    good = {"base64": base64.b64encode(server.image).decode()}
    bad = {"base64": base64.b64encode(b"not an image").decode()}
    body = {"images": [good, bad, good], "options": {"vocabulary": server.vocabulary}}
    answer = http.post("/v1/segment/batch", json=body)
    assert answer.status_code == HTTPStatus.OK
    first, second, third = answer.json()["items"]
    expected = ask(http, server).json()["segments"]
    assert first["result"]["segments"] == third["result"]["segments"] == expected
    assert second["result"] is None
    assert second["problem"]["status"] == HTTPStatus.UNPROCESSABLE_ENTITY
    assert second["problem"]["errors"][0]["field"] == "image"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"vocabulary": ""}, "options.vocabulary"),
        ({"vocabulary": "grass", "model": "another"}, "options.model"),
        ({"vocabulary": "grass", "overlap_threshold": False}, "options.overlap_threshold"),
        ({"vocabulary": "grass", "top_k": "7"}, "options.top_k"),
    ],
)
def test_wrong_options_are_the_whole_batchs_fault(http: httpx.Client, options: dict[str, object], field: str) -> None:
    answer = http.post("/v1/segment/batch", json={"images": [{}], "options": options})
    assert problem(answer, 422)["errors"][0]["field"] == field


def test_models_vocabularies_health_and_the_page(http: httpx.Client, server: Server) -> None:
    models = http.get("/v1/models").json()
    assert [m["name"] for m in models["models"]] == [models["default"]]
    [model] = models["models"]
    assert set(model["training_categories"]) < set(server.names)
    for address in model["examples"]:
        assert Image.open(io.BytesIO(http.get(address).content)).size[0] > 100
    vocabularies = {v["name"]: v for v in http.get("/v1/vocabularies").json()["vocabularies"]}
    assert vocabularies["coco-panoptic"]["num_categories"] == 133
    assert vocabularies["coco-panoptic"]["num_things"] == 80
    assert http.get("/healthz").json() == {"status": "alive"}
    assert http.get("/readyz").json() == {"status": "ready"}
    page = http.get("/").text
    assert not re.findall(r"(?:src|href)=\"?https?://|@import|url\(", page), "the page needs nothing from elsewhere"


def test_metrics_count_what_happened(http: httpx.Client, server: Server) -> None:
    def count() -> tuple[float, float, float]:
        text = http.get("/metrics").text
        found = []
        for name in (
            r'frozenseg_images_total{task="semantic"}',
            r'frozenseg_stage_seconds_count{stage="encode"}',
            r'frozenseg_requests_total{route="/v1/segment",status="422"}',
        ):
            match = re.search(re.escape(name) + r" (\S+)", text)
            found.append(float(match[1]) if match else 0.0)
        return found[0], found[1], found[2]

    before = count()
    ask(http, server, task="semantic")
    assert post(http, b"junk", {"vocabulary": "grass"}).status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert [b - a for a, b in zip(before, count(), strict=True)] == [1, 1, 1]


def png_claiming(width: int, height: int) -> bytes:
    """A small file whose head promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def many(count: int) -> list[dict[str, str]]:
    return [{"name": f"grass {i}"} for i in range(count)]


@pytest.mark.parametrize(
    ("image", "options", "status", "field", "said"),
    [
        (b"\xff\xd8 no jpeg", {}, 422, "image", "image"),
        (b"", {}, 422, "image", "empty"),
        (png_claiming(30_000, 20_000), {}, 422, "image", "at most 2000000 pixels"),
        (bytes(LIMITS["image_bytes"] + 1), {}, 413, "image", "300000"),  # type: ignore[call-overload]
        (None, {"colour": "red"}, 422, "options.colour", "not permitted"),
        (None, {"task": "depth"}, 422, "options.task", "panoptic"),
        (None, {"object_threshold": 2}, 422, "options.object_threshold", "less than or equal to 1"),
        (None, {"top_k": 0}, 422, "options.top_k", "greater than or equal to 1"),
        (None, {"model": "huge"}, 422, "options.model", "huge"),
        (None, {"vocabulary": "grass; zebra"}, 422, "options.vocabulary", "zebra"),
        (None, {"vocabulary": " ; "}, 422, "options.vocabulary", "empty"),
        (None, {"vocabulary": []}, 422, "options.vocabulary", "categor"),
        (None, {"vocabulary": "grass; grass"}, 422, "options.vocabulary", "grass"),
        (None, {"vocabulary": "@nope"}, 422, "options.vocabulary", "nope"),
        (None, {"vocabulary": "/etc/passwd"}, 422, "options.vocabulary", "/etc/passwd"),
        (None, {"vocabulary": many(31)}, 422, "options.vocabulary", "at most 30"),
        (None, {"vocabulary": "grass,a,b,c,d"}, 422, "options.vocabulary", "at most 4"),
        (None, {"vocabulary": "grass " * 8}, 422, "options.vocabulary", "at most 40"),
        (None, "{not json", 422, "options", "JSON"),
        (None, "[]", 422, "options", "object"),
    ],
    ids=[f"fault{number}" for number in range(20)],
)
def test_problems_name_the_field_at_fault(
    http: httpx.Client, server: Server, image: bytes | None, options: Any, status: int, field: str, said: str
) -> None:
    sent = {"vocabulary": "grass", **options} if isinstance(options, dict) else options
    answer = post(http, server.image if image is None else image, sent)
    body = problem(answer, status)
    fields = [error["field"] for error in body["errors"]]
    assert any(found == field or found.startswith(field + ".") for found in fields), body
    assert said in body["detail"], body


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "request_id", "errors"}
    assert (body["status"], body["title"]) == (status, HTTPStatus(status).phrase)
    assert answer.headers.get_list("x-request-id") == [body["request_id"]]
    assert "Traceback" not in answer.text
    return body


def test_problems_outside_the_options(http: httpx.Client, server: Server) -> None:
    assert (
        "text/plain"
        in problem(http.post("/v1/segment", content=b"x", headers={"Content-Type": "text/plain"}), 415)["detail"]
    )
    problem(http.post("/v1/segment", content=b"x", headers={"Content-Type": "multipart/form-data"}), 400)
    problem(http.get("/v1/segment"), 405)
    problem(http.get("/v1/nothing"), 404)
    problem(http.get("/v1/examples/99"), 404)
    problem(http.post("/v1/segment", files={"image": ("a", server.image)}), 422)
    problem(http.post("/v1/segment", data={"image": "text", "options": "{}"}, files={"other": ("a", b"x")}), 422)
    problem(http.post("/v1/segment", json={"image": {}, "options": {"vocabulary": "grass"}}), 422)
    url = {"url": "http://127.0.0.1/secret"}
    body = problem(http.post("/v1/segment", json={"image": url, "options": {"vocabulary": "grass"}}), 422)
    assert body["errors"][0]["field"] == "image.url"
    body = problem(http.post("/v1/segment/batch", json={"images": [url] * 4, "options": {"vocabulary": "grass"}}), 422)
    assert body["errors"][0]["field"] == "images"
    problem(http.post("/v1/segment", content=bytes(LIMITS["body_bytes"] + 1)), 413)  # type: ignore[call-overload]
    problem(http.get("/v1/models", headers={"X-Large": "x" * 20_000}), 431)


def test_a_body_is_refused_while_it_is_still_coming(server: Server) -> None:
    """The declared length is past the limit: the answer is there although most of the body never is."""
    head = (
        f"POST /v1/segment HTTP/1.1\r\nHost: {server.address[7:]}\r\nContent-Type: application/json\r\n"
        "Content-Length: 100000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode() + b"{" + bytes(1000))
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")


def test_an_endless_body_is_cut(http: httpx.Client, server: Server) -> None:
    """No length is declared; the bytes are counted as they come."""
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(400):
            sent += 100_000
            yield bytes(100_000)

    with contextlib.suppress(httpx.WriteError, httpx.RemoteProtocolError):
        answer = http.post("/v1/segment", content=pieces(), headers={"Content-Type": "application/json"})
        problem(answer, 413)
    assert http.get("/healthz").status_code == HTTPStatus.OK


def test_the_openapi_document_is_valid(http: httpx.Client) -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator

    document = http.get("/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"].startswith("3.1")
    assert SegmentResponse.model_validate(openapi.EXAMPLE_ANSWER).segments[0].area == 24
    assert mask_of(openapi.EXAMPLE_ANSWER["segments"][0]).sum() == 24
    for path in ("/v1/segment", "/v1/segment/batch"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert body["examples"]["base64"]["value"]["options"]["vocabulary"]
    assert set(document["paths"]) == {
        *("/v1/segment", "/v1/segment/batch", "/v1/models", "/v1/vocabularies", "/healthz", "/readyz")
    }


def test_the_client_brings_what_the_library_finds(server: Server) -> None:
    import frozenseg
    from frozenseg.client import Client, ServerError

    direct = frozenseg.load("miniature", device="cpu")(server.image, server.vocabulary).panoptic()
    with Client(server.address) as client:
        remote = client.segment(server.image, server.vocabulary)
        assert client.models()[0]["name"] == remote.model
        with pytest.raises(ServerError, match="zebra") as caught:
            client.segment(server.image, "zebra")
    assert (caught.value.status, caught.value.fields) == (422, ("options.vocabulary",))
    assert remote.milliseconds["encode"] > 0
    assert [(s.id, s.category_id, s.area) for s in remote.segments] == [
        (s.id, s.category_id, s.area) for s in direct.segments
    ]
    ids = direct.segment_ids.numpy()
    for ours, theirs in zip(remote.segments, direct.segments, strict=True):
        np.testing.assert_array_equal(ours.mask, ids == theirs.id)
        assert ours.score == pytest.approx(theirs.score, abs=1e-5)


def test_two_vocabularies_at_once_keep_apart(http: httpx.Client, server: Server) -> None:
    vocabularies = ["; ".join(server.names[:3]), "; ".join(server.names[3:8])]
    alone = [ask(http, server, vocabulary=v, task="semantic").json()["segments"] for v in vocabularies]
    assert alone[0] != alone[1]
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda i: ask(http, server, vocabulary=vocabularies[i % 2], task="semantic").json(), range(8))
        )
    for index, body in enumerate(together):
        found, expected = body["segments"], alone[index % 2]
        assert [s["category"] for s in found] == [s["category"] for s in expected]
        for ours, theirs in zip(found, expected, strict=True):
            # A batch of another size may round differently at the very edge of a mask.
            assert (mask_of(ours) != mask_of(theirs)).mean() < 0.002
