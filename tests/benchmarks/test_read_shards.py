"""The benchmark of readers: every library must give every sample's bytes. How fast is no matter here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.environments import CannotInstallError
from benchmarks.read_shards import OURS, RIVALS, SETS, check_same, run


class Stub:
    """Stands for a reader's process."""

    def __init__(self, name: str, digests: list[tuple[str, str]]) -> None:
        self.name, self.digests = name, digests

    def ask(self, *words: object) -> None:
        Path(str(words[-1])).write_text(json.dumps(self.digests))


@pytest.mark.parametrize(
    "found",
    [[("a", "1")], [("a", "1"), ("b", "3")], [("a", "1"), ("b", "2"), ("b", "2")]],
    ids=["lost", "other", "twice"],
)
def test_other_samples_are_noticed(tmp_path: Path, found: list[tuple[str, str]]) -> None:
    ours: Any = Stub(OURS, [("a", "1"), ("b", "2")])
    same: Any = Stub("litdata", [("b", "2"), ("a", "1")])
    other: Any = Stub("webdataset", found)
    check_same([ours, same], tmp_path, "miniature")
    with pytest.raises(RuntimeError, match=r"webdataset .* gives other samples"):
        check_same([ours, same, other], tmp_path, "miniature")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_libraries_read_the_same_bytes(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    environments = Path(pytestconfig.cache.mkdir("readers"))
    try:
        record = run(num_samples=60, rounds=1, environments=environments, folder=tmp_path)
    except CannotInstallError as error:
        pytest.skip(str(error))
    assert {OURS, *RIVALS.values()} <= set(record["versions"])
    for name in SETS:
        assert {key.split()[0] for key in record[name]} == {OURS, *RIVALS}
