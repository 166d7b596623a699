"""A client of the HTTP server (`serve/`): images and names in, segments with masks out.

from frozenseg.client import Client
with Client("http://127.0.0.1:8000") as client:
    for segment in client.segment("photo.jpg", "cat; dog,puppy; sky(stuff)").segments:
        print(segment.category, segment.score, segment.mask.sum())
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import httpx
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from frozenseg.errors import FrozenSegError, MissingPathError
from frozenseg.types import Category, Size, Vocabulary

Task = Literal["panoptic", "semantic", "instance", "proposals"]
RETRY_STATUSES = (429, 503)
PROXY_FAILED = 500


class ServerError(FrozenSegError):
    """The server refused or failed. Fields: status; request_id, to find it in the server's log; fields at fault."""

    def __init__(self, status: int, detail: str, request_id: str = "", fields: tuple[str, ...] = ()) -> None:
        super().__init__(f"the server answered {status}: {detail}" + (f" (request {request_id})" if request_id else ""))
        self.status = status
        self.detail = detail
        self.request_id = request_id
        self.fields = fields


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSegment:
    """One segment of the answer. box is (x, y, width, height) in pixels; rle is COCO's compressed form."""

    id: int
    category_id: int | None
    category: str | None
    is_thing: bool | None
    score: float
    area: int
    box: tuple[int, int, int, int]
    size: Size
    rle: str

    @property
    def mask(self) -> NDArray[np.bool_]:
        """[h,w] bool at the image's own size."""
        decoded = coco_mask.decode({"size": list(self.size), "counts": self.rle.encode("ascii")})
        return np.asarray(decoded, dtype=np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteResult:
    """The answer for one image. size is (height, width); milliseconds by stage as the server measured them."""

    request_id: str
    model: str
    size: Size
    segments: tuple[RemoteSegment, ...]
    warnings: tuple[str, ...]
    milliseconds: dict[str, float]


class Client:
    """A connection to one server. Busy answers (429, 503) are tried again as the server asks, and what a dying
    replica left unanswered.

    Args:
        address: of the server, e.g. `http://127.0.0.1:8000`.
        token: bearer token, where the server wants one.
        timeout_s: for one request.
        attempts: tries of one request, the first included.
    """

    def __init__(self, address: str, token: str = "", timeout_s: float = 120.0, attempts: int = 5) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=address, headers=headers, timeout=timeout_s)
        self._attempts = attempts

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def segment(
        self,
        image: str | Path | bytes,
        vocabulary: str | Vocabulary | Sequence[Category],
        *,
        task: Task = "panoptic",
        ensemble: bool = False,
        min_score: float = 0.0,
    ) -> RemoteResult:
        """Segments one image.

        Args:
            image: a file, or its bytes.
            vocabulary: text (`cat; dog,puppy; sky(stuff)`), a Vocabulary or categories.
            task: kind of result.
            ensemble: let SAM masks join the semantic result of unseen categories.
            min_score: segments below it are left out.

        Raises:
            MissingPathError: no such file.
            ServerError: the server refused the request or failed.
        """
        options = {
            "vocabulary": _vocabulary(vocabulary),
            "task": task,
            "ensemble": ensemble,
            "min_score": min_score,
        }
        response = self._post(_image_bytes(image), options)
        body: dict[str, Any] = response.json()
        return RemoteResult(
            request_id=body["request_id"],
            model=body["model"],
            size=(body["size"][0], body["size"][1]),
            segments=tuple(_segment(entry) for entry in body["segments"]),
            warnings=tuple(body["warnings"]),
            milliseconds=_timings(response.headers.get("server-timing", "")),
        )

    def models(self) -> list[dict[str, Any]]:
        """What the server has, as /v1/models tells."""
        response = self._http.get("/v1/models")
        _raise(response)
        models: list[dict[str, Any]] = response.json()["models"]
        return models

    def _post(self, image: bytes, options: dict[str, Any]) -> httpx.Response:
        for attempt in range(self._attempts):
            response = self._http.post(
                "/v1/segment", files={"image": ("image", image)}, data={"options": json.dumps(options)}
            )
            if not _passes(response) or attempt == self._attempts - 1:
                break
            time.sleep(min(float(response.headers.get("retry-after", 1)), 30.0))
        _raise(response)
        return response


def _vocabulary(given: str | Vocabulary | Sequence[Category]) -> str | list[dict[str, Any]]:
    if isinstance(given, str):
        return given
    categories = given.categories if isinstance(given, Vocabulary) else given
    return [{"name": c.name, "synonyms": list(c.synonyms), "is_thing": c.is_thing} for c in categories]


def _image_bytes(image: str | Path | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    path = Path(image)
    if not path.is_file():
        raise MissingPathError(f"image {path} does not exist")
    return path.read_bytes()


def _segment(entry: dict[str, Any]) -> RemoteSegment:
    x, y, width, height = entry["bbox"]
    return RemoteSegment(
        id=entry["id"],
        category_id=entry["category_id"],
        category=entry["category"],
        is_thing=entry["is_thing"],
        score=entry["score"],
        area=entry["area"],
        box=(x, y, width, height),
        size=(entry["mask"]["size"][0], entry["mask"]["size"][1]),
        rle=entry["mask"]["counts"],
    )


def _passes(response: httpx.Response) -> bool:
    """Whether the fault is one of the moment. A 500 that is no problem object comes from the proxy, whose replica went
    away under the request; segmenting again does no harm."""
    ours = response.headers.get("content-type", "") == "application/problem+json"
    return response.status_code in RETRY_STATUSES or (response.status_code == PROXY_FAILED and not ours)


def _timings(header: str) -> dict[str, float]:
    """`encode;dur=12.5, decode;dur=3` -> milliseconds by stage."""
    pairs = (part.strip().partition(";dur=") for part in header.split(",") if ";dur=" in part)
    return {stage: float(value) for stage, _, value in pairs}


def _raise(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        body = response.json()
        fields = tuple(entry["field"] for entry in body.get("errors", ()))
        raise ServerError(response.status_code, body["detail"], body.get("request_id", ""), fields)
    except (ValueError, KeyError, TypeError):
        raise ServerError(response.status_code, response.text[:200]) from None
