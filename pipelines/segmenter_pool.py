"""The whole model in an actor, for evaluation and labeling, and the run over numbered parts that both share.

A part is a fixed slice of the input. Its results are written under names that depend on its number only, and a record,
written last, says that it is done: a rerun does the parts without a record, and nothing twice that was whole.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from frozenseg.errors import UserInputError
from frozenseg.inference.loading import DTYPES, model_folder, resolve_device
from frozenseg.inference.segmenter import Segmenter
from frozenseg.memory import keep_freed_memory
from frozenseg.model import ModelSpec, WeightsSource, build_model, load_model, read_spec, with_random_encoders
from frozenseg.model.load_encoders import load_into, read_tensors
from frozenseg.model.spec import DECODER_FILE
from shards import Storage

logger = logging.getLogger(__name__)
SETTINGS_NAME = "settings.json"
RECORD_FOLDER = "parts"
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmenterSource:
    """Which model to build, as data that travels to the machine where it is built.

    Fields: model: a folder, or `miniature`; device; dtype: float32, bfloat16 or float16; random_encoders: CLIP and SAM
    with random weights; untrained: a decoder that never learnt, the baseline of an evaluation; num_threads: of torch.
    """

    model: str
    device: str = "auto"
    dtype: str = "float32"
    random_encoders: bool = False
    untrained: bool = False
    num_threads: int = 1

    def spec(self) -> ModelSpec:
        """Raises as `frozenseg.model.read_spec`."""
        return read_spec(model_folder(self.model))

    def check(self) -> None:
        """What can be known without building anything. Raises as `spec`, and for a dtype or device that is none."""
        if self.dtype not in DTYPES:
            raise UserInputError(f"dtype: expected one of {', '.join(DTYPES)}, found {self.dtype!r}")
        if self.device.split(":")[0] not in ("auto", "cpu", "cuda", "mps"):
            raise UserInputError(f"device: expected auto, cpu, cuda or mps, found {self.device!r}")
        self.spec()

    def notice(self) -> str:
        """One line for every output when weights are random, else empty."""
        spec = self.spec()
        if self.random_encoders:
            spec = with_random_encoders(spec)
        return dataclasses.replace(spec, decoder_is_random=spec.decoder_is_random or self.untrained).notice

    def build(self) -> Segmenter:
        """The segmenter on its device. Raises as `frozenseg.load`."""
        self.check()
        torch.set_num_threads(self.num_threads)
        folder, dtype, device = model_folder(self.model), DTYPES[self.dtype], resolve_device(self.device)
        keep_freed_memory(device)
        if not self.random_encoders and not self.untrained:
            segmenter = Segmenter(load_model(folder, device, dtype))
        else:
            weights = WeightsSource.RANDOM if self.random_encoders else WeightsSource.REFERENCE
            spec = dataclasses.replace(read_spec(folder), decoder_is_random=self.untrained)
            model = build_model(spec, folder=folder, weights=weights, device=device, dtype=dtype)
            if not self.untrained:
                path = folder / DECODER_FILE
                load_into(model.decoder, read_tensors(path), f"decoder ({path})")
            segmenter = Segmenter(model.eval())
        if segmenter.notice:
            logger.warning(segmenter.notice)
        return segmenter

    def fingerprint(self) -> str:
        """sha256 over the files of the model folder and what is done to them."""
        digest = hashlib.sha256(f"{self.dtype}\0{self.random_encoders}\0{self.untrained}\n".encode())
        folder = model_folder(self.model)
        for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors")):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """The pool grows and shrinks between min_actors and max_actors; cpus and gpus are each actor's. in_process: no Ray
    at all, one part after the other, for one small machine; parts_at_once: of an actor, in threads."""

    min_actors: int = 1
    max_actors: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    in_process: bool = False
    parts_at_once: int = 1


class PartStore:
    """A folder of parts: its settings, and the record of each part that is done."""

    def __init__(self, address: str) -> None:
        self.storage = Storage(address)

    def agree_on(self, settings: dict[str, Any]) -> None:
        """Writes the settings down, or compares them with those there are; a run that came to nothing binds nobody.

        Raises:
            UserInputError: naming what differs; nothing is changed.
        """
        settings = json.loads(json.dumps(settings))
        if self.storage.exists(SETTINGS_NAME) and self.storage.list_names() != [SETTINGS_NAME]:
            existing = json.loads(self.storage.read_bytes(SETTINGS_NAME))
            different = [
                key for key in sorted(settings.keys() | existing.keys()) if settings.get(key) != existing.get(key)
            ]
            if different:
                raise UserInputError(
                    f"{self.storage.address} holds results of other settings (different: {', '.join(different)}): use "
                    "another folder, or remove that one"
                )
        self.storage.write_bytes(SETTINGS_NAME, (json.dumps(settings, indent=1, sort_keys=True) + "\n").encode())

    def done(self) -> set[int]:
        """Numbers of the parts with a record."""
        names = self.storage.list_names(RECORD_FOLDER)
        return {int(name.removesuffix(".json")) for name in names if name.endswith(".json")}

    def write(self, number: int, record: dict[str, Any]) -> None:
        self.storage.write_bytes(record_name(number), json.dumps(record).encode())

    def read(self, number: int) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.storage.read_bytes(record_name(number)))
        return record


def record_name(number: int) -> str:
    return f"{RECORD_FOLDER}/{number:06d}.json"


def run_parts(
    actor: Callable[..., Callable[[dict[str, Any]], dict[str, Any]]],
    arguments: dict[str, Any],
    parts: Iterable[dict[str, Any]],
    num_parts: int,
    pool: PoolOptions,
) -> Iterator[dict[str, Any]]:
    """What `actor(**arguments)` returns for each part, in any order. Both sides are JSON values.

    Args:
        actor: a class; its objects live in the actors and are called with one part at a time.
        num_parts: how many `parts` gives.
    """
    if not num_parts:
        return
    if pool.in_process:
        yield from map(actor(**arguments), parts)
        return
    import ray.data

    rows = ray.data.from_items([{"part": json.dumps(part)} for part in parts], override_num_blocks=num_parts)
    results = rows.map_batches(
        JsonActor,
        fn_constructor_kwargs={"actor": actor, "arguments": arguments},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=min(pool.min_actors, num_parts),
            max_size=min(pool.max_actors, num_parts),
            max_concurrent_calls_per_actor=pool.parts_at_once,
            enable_true_multi_threading=pool.parts_at_once > 1,
        ),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    for row in results.iter_rows():
        yield json.loads(row["result"])


class JsonActor:
    """Ray Data's column dicts on the outside, one part at a time on the inside.

    The actor inside is built at the first call: an error in an actor's constructor reaches the driver as a dead actor
    with a page of traces, one in a call as itself.
    """

    def __init__(
        self, actor: Callable[..., Callable[[dict[str, Any]], dict[str, Any]]], arguments: dict[str, Any]
    ) -> None:
        self.build = functools.partial(actor, **arguments)
        self.actor: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        self.is_building = threading.Lock()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        with self.is_building:
            self.actor = self.actor or self.build()
        return {"result": [json.dumps(self.actor(json.loads(part))) for part in batch["part"]]}


def prefetched(
    items: Iterable[Item], load: Callable[[Item], Result], ahead: int = 4
) -> Iterator[tuple[Item, Result | UserInputError]]:
    """Each item with what `load` makes of it, or its error, loaded by threads while the caller works on others."""

    def attempt(item: Item) -> Result | UserInputError:
        try:
            return load(item)
        except UserInputError as error:
            return error

    with ThreadPoolExecutor(max_workers=min(ahead, 4)) as threads:
        waiting: list[tuple[Item, Future[Result | UserInputError]]] = []
        for item in items:
            waiting.append((item, threads.submit(attempt, item)))
            if len(waiting) > ahead:
                first, future = waiting.pop(0)
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def slices(num_items: int, size: int) -> list[range]:
    """Consecutive ranges of `size` items, the last one shorter."""
    return [range(start, min(start + size, num_items)) for start in range(0, num_items, size)]
