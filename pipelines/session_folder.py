"""A process's own temporary folder, removed at its end, or by a later process when SIGKILL left it no end."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

LOCK = "owner.lock"


def session_folder(prefix: str) -> Path:
    """A new folder in the system's temporary one; those of the same prefix whose owners are dead are removed first.

    A lock tells the dead from the living, and not a process id: containers that share the folder don't share those.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _remove_abandoned(folder)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    new = folder / f"{LOCK}.new"
    # Open as long as the process lives; the system lets go of a lock with the last process that holds it.
    fcntl.flock(os.open(new, os.O_CREAT | os.O_WRONLY), fcntl.LOCK_EX)
    new.rename(folder / LOCK)  # seen by others only once it is held
    return folder


def _remove_abandoned(folder: Path) -> None:
    try:
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return  # held, another user's, or without a lock: not ours to remove
