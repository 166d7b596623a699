"""What each replica of a server on this machine holds in memory, seen from outside, and whether it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import psutil

_TITLE = "ray::ServeReplica:"
ALLOWED_MB = 48
ALLOWED_SHARE = 0.1
"""Growth that is still called flat: allocators keep what they once had, by pieces of tens of megabytes."""


def replica_megabytes(port: int) -> dict[str, int]:
    """Memory that no other process shares, in MB, of every replica of the server that listens on `port`.

    Keys are the part's name and its process id. Empty when no process of ours listens there: a server elsewhere.
    """
    found: dict[str, int] = {}
    for connection in psutil.net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN or connection.laddr.port != port or connection.pid is None:
            continue
        for process in _family(psutil.Process(connection.pid)):
            title = " ".join(process.cmdline())
            if title.startswith(_TITLE):
                # At work, the title goes on with the method's name.
                name = title.removeprefix(_TITLE).split(":")[1].split(".")[0].strip()
                found[f"{name} {process.pid}"] = process.memory_full_info().uss >> 20
    return found


def _family(process: psutil.Process) -> list[psutil.Process]:
    """All workers of the node that the proxy belongs to: Ray starts them side by side."""
    parent = process.parent()
    return [] if parent is None else parent.children(recursive=True)


def growth(looks: Sequence[Mapping[str, int]]) -> dict[str, tuple[int, int]]:
    """Of every replica that is in all looks after the first quarter: the most it held in the half of them that comes
    first, and in the other half. The first quarter is left out: caches fill, and allocators take what they need."""
    settled = looks[len(looks) // 4 :]
    if len(settled) < 2:
        return {}
    middle = len(settled) // 2
    names = set(settled[0]).intersection(*settled)
    return {
        name: (max(look[name] for look in settled[:middle]), max(look[name] for look in settled[middle:]))
        for name in sorted(names)
    }


class MemoryWatch:
    """Looks at a server's replicas whenever told to; knows nothing of a server on another machine."""

    def __init__(self, address: str) -> None:
        self._port = urlsplit(address).port or 80
        self.looks: list[dict[str, int]] = []

    def look(self) -> None:
        """Remembers what every replica holds now."""
        self.looks.append(replica_megabytes(self._port))

    def grown(self) -> list[str]:
        """The replicas that hold clearly more in the last part of the run than in the one before it."""
        return [
            name
            for name, (before, after) in growth(self.looks).items()
            if after - before > max(ALLOWED_MB, before * ALLOWED_SHARE)
        ]

    def report(self) -> str:
        """One line per replica: first and last look, and the two halves that are compared."""
        if not self.looks or not self.looks[-1]:
            return "memory: no replica of this server runs on this machine"
        lines = [f"memory in MB, {len(self.looks)} looks: first, last, most before and after the middle"]
        for name, (before, after) in growth(self.looks).items():
            first, last = self.looks[0].get(name, 0), self.looks[-1][name]
            lines.append(f"  {name}: {first}, {last}, {before}, {after}{' GROWN' if name in self.grown() else ''}")
        return "\n".join(lines)
