"""`python -m shards check ADDRESS`: verifies every tar of a shard set against its manifest."""

from __future__ import annotations

import argparse
import sys

from frozenseg.errors import UserInputError
from shards.reader import ShardReader


def check(address: str) -> int:
    """Prints one line per damaged tar and a summary. Returns the number of damaged or missing tars."""
    reader = ShardReader(address)
    damaged = 0
    for file in reader.manifest.files:
        try:
            reader.verify(file)
        except UserInputError as error:
            damaged += 1
            sys.stderr.write(f"{error}\n")
    extra = sorted(
        name
        for name in set(reader.storage.list_names()) - {file.name for file in reader.manifest.files}
        if name.endswith(".tar")
    )
    if extra:
        sys.stderr.write(f"not in the manifest, and not read by anything: {', '.join(extra)}\n")
    num_bytes = sum(file.num_bytes for file in reader.manifest.files)
    sys.stdout.write(
        f"{address}: {len(reader.manifest.files)} files, {len(reader)} samples, {num_bytes / 1e6:.1f} MB, "
        f"{len(reader.manifest.vocabulary)} categories, {len(reader.manifest.skipped)} skipped at writing; "
        f"{damaged} damaged\n"
    )
    return damaged


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m shards", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check_parser = commands.add_parser("check", help="verify a shard set")
    check_parser.add_argument("address", help="folder or fsspec address of the set")
    arguments = parser.parse_args()
    try:
        return 1 if check(arguments.address) else 0
    except UserInputError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
