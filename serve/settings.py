"""What an operator may set. Every field is an argument of the application (`serve run serve.app:build model=DIR`, or
`args:` in serve/config.yaml); unknown keys are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frozenseg.config import from_mapping
from frozenseg.errors import UserInputError

NUMBERS = ("threads", "batch_pixels", "surge_percent")
"""Arguments of the application itself that are numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may cost.

    Fields: image_bytes; image_pixels: checked before decoding; categories, synonyms (per category) and name_length
    (characters): of a vocabulary; body_bytes: of a whole request; header_bytes: of all header lines; images_per_batch;
    in_flight: requests worked on at once, more get 429; timeout_s: for one request.
    """

    image_bytes: int = 20 * 2**20
    image_pixels: int = 40_000_000
    categories: int = 2000
    synonyms: int = 50
    name_length: int = 200
    body_bytes: int = 64 * 2**20
    header_bytes: int = 16 * 2**10
    images_per_batch: int = 16
    in_flight: int = 64
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlSettings:
    """Fetching images by address: off unless hosts are allowed by exact name. Never follows redirects."""

    allowed_hosts: tuple[str, ...] = ()
    timeout_s: float = 10.0

    @property
    def enabled(self) -> bool:
        return bool(self.allowed_hosts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Replicas of one part and what each takes.

    Fields: min_replicas, max_replicas: autoscaled where the second is larger; num_cpus, num_gpus: of each replica, may
    be fractional; target_ongoing: requests at once that a replica should have on average (below 1 where it waits for
    others most of the time), more asks for another replica, 0 for half of what it takes; upscale_delay_s,
    downscale_delay_s: how long the load must ask for it.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    num_cpus: float = 0.25
    num_gpus: float = 0.0
    target_ongoing: float = 0.0
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 300.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise UserInputError(
                "scaling: expected 1 <= min_replicas <= max_replicas, found "
                f"{self.min_replicas} and {self.max_replicas}"
            )
        for name in ("num_cpus", "num_gpus", "target_ongoing", "upscale_delay_s", "downscale_delay_s"):
            if getattr(self, name) < 0:
                raise UserInputError(f"scaling: expected {name} >= 0, found {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """The application.

    Fields: model: a model folder or `miniature`; device: `auto`, `cpu` or `cuda`; dtype: of the encoders; threads: of
    torch in each replica; batch_pixels: padded pixels of one encoder batch, 0 for 4 194 304 on a GPU and one image on a
    CPU; token: bearer token that every `/v1` request must carry, empty for none; otlp_endpoint: where OpenTelemetry
    spans of requests go, e.g. `http://collector:4318/v1/traces`, empty for none; surge_percent: replicas beside the old
    ones while the model is changed, 0 to stop old ones first; ingress, encoders, decoder, sam_masks: how each part
    scales by itself.
    """

    model: str = "miniature"
    device: str = "auto"
    dtype: str = "float32"
    threads: int = 1
    batch_pixels: int = 0
    token: str = ""
    otlp_endpoint: str = ""
    surge_percent: int = 100
    limits: Limits = field(default_factory=Limits)
    url: UrlSettings = field(default_factory=UrlSettings)
    ingress: Scaling = field(default_factory=Scaling)
    encoders: Scaling = field(default_factory=Scaling)
    decoder: Scaling = field(default_factory=Scaling)
    sam_masks: Scaling = field(default_factory=Scaling)

    def __post_init__(self) -> None:
        if not 0 <= self.surge_percent <= 100:
            raise UserInputError(f"surge_percent: expected 0 to 100, found {self.surge_percent}")


def settings_from(arguments: Mapping[str, Any]) -> ServeSettings:
    """Settings from application arguments; `serve run` hands every value over as text, a config file with its type.

    Raises:
        UserInputError: an unknown key or a value of the wrong type.
    """
    return from_mapping(_typed(arguments), ServeSettings, where="serve arguments")


def _typed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`key=value` words of the command line are text: numbers become numbers, `a.b=c` becomes nested."""
    typed: dict[str, Any] = {}
    for key, value in arguments.items():
        head, _, rest = key.partition(".")
        if rest:
            typed.setdefault(head, {})[rest] = _number(value)
        else:
            typed[head] = _number(value) if head in NUMBERS else value
    return typed


def _number(value: Any) -> Any:
    """A text that is a number as that number; anything else as it is."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
