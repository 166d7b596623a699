"""One sample <-> the members of a tar, byte for byte the same whoever writes it and whenever.

A tar of this format is a plain POSIX ustar file with regular files only, so that `tar` and webdataset read it; because
nothing else may occur in it, reading needs no general tar library and costs little more than slicing the buffer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict

from frozenseg.errors import UserInputError
from frozenseg.types import EncodedSample, TruthSegment

PANOPTIC_EXTENSION = "panoptic.png"
SEGMENTS_EXTENSION = "segments.json"
BLOCK = 512
END_OF_TAR = bytes(2 * BLOCK)
_ID_PATTERN = re.compile(r"[A-Za-z0-9_\-]{1,72}")
_MAX_MEMBER_BYTES = 8**11 - 1  # the size field of ustar: 11 octal digits


class DamagedShardError(UserInputError):
    """A tar that is not what its manifest, or the format, says."""


class BadSampleError(UserInputError):
    """A sample that the format cannot hold."""


def image_extension(data: bytes) -> str:
    """The member extension of an image, by its first bytes: webdataset's readers pick the decoder by it.

    Raises:
        BadSampleError: none of the image formats that we read.
    """
    if data[:3] == b"\xff\xd8\xff":
        return "jpg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return "tif"
    if data[:2] == b"BM":
        return "bmp"
    if data[:4] == b"GIF8":
        return "gif"
    if data[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"):
        return "ppm"
    raise BadSampleError(
        f"expected a JPEG, PNG, WebP, TIFF, BMP, GIF or PPM image, found bytes that begin {data[:8]!r}"
    )


def encode_sample(sample: EncodedSample) -> tuple[tuple[str, bytes], ...]:
    """(member name, contents) of one sample, in the order of the format: image, panoptic PNG if any, segments.

    Raises:
        BadSampleError: an id or image that the format cannot hold.
    """
    if not _ID_PATTERN.fullmatch(sample.image_id):
        raise BadSampleError(
            f"image id {sample.image_id!r}: expected 1 to 72 of the characters A-Z a-z 0-9 _ - (no dot, no slash)"
        )
    try:
        extension = image_extension(sample.image_bytes)
    except BadSampleError as error:
        raise BadSampleError(f"image {sample.image_id!r}: {error}") from error
    record = {"file_name": sample.file_name, "segments": [asdict(segment) for segment in sample.segments]}
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    members = [(f"{sample.image_id}.{extension}", sample.image_bytes)]
    if sample.panoptic_png:
        members.append((f"{sample.image_id}.{PANOPTIC_EXTENSION}", sample.panoptic_png))
    members.append((f"{sample.image_id}.{SEGMENTS_EXTENSION}", text.encode()))
    return tuple(members)


def member_header(name: str, size: int) -> bytes:
    """The 512-byte ustar header: fixed mode, owner and time, so that equal samples give equal tars."""
    if size > _MAX_MEMBER_BYTES:
        raise BadSampleError(f"{name}: {size} bytes are more than a tar member can hold ({_MAX_MEMBER_BYTES})")
    header = bytearray(BLOCK)
    fields = (
        (0, name.encode("ascii")),
        (100, b"0000644\x00"),
        (108, b"0000000\x00"),
        (116, b"0000000\x00"),
        (124, b"%011o\x00" % size),
        (136, b"00000000000\x00"),
        (148, b" " * 8),
        (156, b"0"),
        (257, b"ustar\x0000"),
    )
    for position, value in fields:
        header[position : position + len(value)] = value
    header[148:156] = b"%06o\x00 " % sum(header)
    return bytes(header)


def padding(size: int) -> bytes:
    """Zeros that fill a member of `size` bytes up to whole blocks."""
    return bytes(-size % BLOCK)


def iterate_members(data: memoryview | bytes, where: str) -> Iterator[tuple[int, str, memoryview]]:
    """(offset of the header, name, contents without copying) of each member of a tar or of a piece of one.

    Raises:
        DamagedShardError: a header that is none of ours, a wrong checksum, or contents that end early.
    """
    view = memoryview(data)
    position = 0
    while position + BLOCK <= len(view):
        header = view[position : position + BLOCK]
        if header[0] == 0:
            return
        name, size = _parse_header(bytes(header), where, position)
        start = position + BLOCK
        if start + size > len(view):
            raise DamagedShardError(f"{where} is damaged: member {name!r} ends after the file does")
        yield position, name, view[start : start + size]
        position = start + size + (-size % BLOCK)
    if position != len(view):
        raise DamagedShardError(f"{where} is damaged: it ends inside a block, at byte {len(view)}")


def _parse_header(header: bytes, where: str, position: int) -> tuple[str, int]:
    try:
        stated = int(header[148:154], 8)
        size = int(header[124:135], 8)
        name = header[:100].rstrip(b"\x00").decode("ascii")
    except ValueError as error:
        raise DamagedShardError(f"{where} is damaged: no tar header at byte {position}") from error
    if stated != sum(header) - sum(header[148:156]) + 8 * 32:
        raise DamagedShardError(f"{where} is damaged: the header at byte {position} has a wrong checksum")
    return name, size


def decode_members(data: memoryview | bytes, where: str) -> Iterator[tuple[int, EncodedSample]]:
    """(byte offset, sample) of each sample in a tar, or in the part of a tar that holds whole samples.

    Raises:
        DamagedShardError: as `iterate_members`, or a sample without image or segments.
    """
    key, start = "", 0
    members: dict[str, memoryview] = {}
    for offset, name, contents in iterate_members(data, where):
        sample_id, _, extension = name.partition(".")
        if sample_id != key and members:
            yield start, _build_sample(key, members, where)
            members = {}
        if not members:
            key, start = sample_id, offset
        members[extension] = contents
    if members:
        yield start, _build_sample(key, members, where)


def _build_sample(image_id: str, members: dict[str, memoryview], where: str) -> EncodedSample:
    image = next((data for name, data in members.items() if "." not in name), None)
    if image is None or SEGMENTS_EXTENSION not in members:
        raise DamagedShardError(
            f"{where}: sample {image_id!r} needs an image and {SEGMENTS_EXTENSION}, found {sorted(members)}"
        )
    try:
        record = json.loads(bytes(members[SEGMENTS_EXTENSION]))
        segments = tuple(TruthSegment(**segment) for segment in record["segments"])
        file_name = str(record["file_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedShardError(f"{where}: sample {image_id!r} has an unreadable {SEGMENTS_EXTENSION}") from error
    return EncodedSample(
        image_id=image_id,
        image_bytes=bytes(image),
        panoptic_png=bytes(members.get(PANOPTIC_EXTENSION, b"")),
        segments=segments,
        file_name=file_name,
    )
