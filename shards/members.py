"""One sample <-> the members of a tar, byte for byte the same whoever writes it and whenever.

A tar of this format is a plain POSIX ustar file with regular files only, so that `tar` and webdataset read it; because
nothing else may occur in it, reading needs no general tar library and costs little more than slicing the buffer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from struct import Struct
from typing import NamedTuple
from zlib import adler32

from frozenseg.errors import UserInputError
from frozenseg.types import EncodedSample, TruthSegment

PANOPTIC_EXTENSION = "panoptic.png"
SEGMENTS_EXTENSION = "segments.json"
BLOCK = 512
END_OF_TAR = bytes(2 * BLOCK)
_PANOPTIC, _SEGMENTS = PANOPTIC_EXTENSION.encode(), SEGMENTS_EXTENSION.encode()
_ID_PATTERN = re.compile(r"[A-Za-z0-9_\-]{1,72}")
_MAX_MEMBER_BYTES = 8**11 - 1  # the size field of ustar: 11 octal digits
WHOLE_BYTES = 1 << 16
"""A sample of at most so many bytes is read in one piece and cut; of a larger one, cutting would copy too much."""

ReadRange = Callable[[int, int], bytes]
"""The bytes [start, end) of a tar, fewer when it ends before."""


class DamagedShardError(UserInputError):
    """A tar that is not what its manifest, or the format, says."""


class BadSampleError(UserInputError):
    """A sample that the format cannot hold."""


class RawSample(NamedTuple):
    """A sample's members as they lie in the tar, nothing parsed; a tuple, because making one must cost next to nothing.

    Fields: image: the image file; panoptic_png: empty when there is no truth; segments_json: see README.md.
    """

    image_id: str
    image: bytes
    panoptic_png: bytes
    segments_json: bytes

    def parsed(self, where: str) -> EncodedSample:
        """With the segments as objects. Raises DamagedShardError, naming the tar as `where`, for unreadable ones."""
        try:
            record = json.loads(self.segments_json)
            segments = tuple(TruthSegment(**segment) for segment in record["segments"])
            file_name = str(record["file_name"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedShardError(
                f"{where}: sample {self.image_id!r} has an unreadable {SEGMENTS_EXTENSION}"
            ) from error
        return EncodedSample(
            image_id=self.image_id,
            image_bytes=self.image,
            panoptic_png=self.panoptic_png,
            segments=segments,
            file_name=file_name,
        )


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


# What every header of ours holds besides name, size and checksum; what that adds to the checksum, less one.
_MODE_AND_OWNER = member_header("", 0)[100:124]
_TIME = member_header("", 0)[135:148]
_REST = member_header("", 0)[154:]
_CONSTANT_SUM = sum(_MODE_AND_OWNER) + sum(_TIME) + sum(_REST[2:]) + 8 * 32 - 1


_fields = Struct("100s24s11s13s6s358s").unpack_from
"""Name, mode and owner, size, time and so on, the checksum's digits, everything after them."""


def _parse_header(data: bytes, position: int, where: str, offset: int) -> tuple[bytes, int]:
    """(name, size of the contents) of the header at `position` of `data`, which lies at `offset` of the tar."""
    name, mode_and_owner, digits, time, checksum, rest = _fields(data, position)
    try:
        stated = int(checksum, 8)
        size = int(digits, 8)
    except ValueError as error:
        raise DamagedShardError(f"{where} is damaged: no tar header at byte {offset + position}") from error
    # Summing 512 bytes costs as much as everything else here: what never changes is compared instead, and of the rest
    # zlib knows the sum: it is the lower half of Adler-32, less the one in the constant, for so few bytes.
    if mode_and_owner == _MODE_AND_OWNER and time == _TIME and rest == _REST:
        found = _CONSTANT_SUM + (adler32(name + digits) & 0xFFFF)
    else:
        header = data[position : position + BLOCK]
        found = sum(header) - sum(header[148:156]) + 8 * 32
    if stated != found or size < 0:
        raise DamagedShardError(f"{where} is damaged: the header at byte {offset + position} has a wrong checksum")
    return name.rstrip(b"\0"), size


def read_sample(image_id: str, read: ReadRange, start: int, end: int, where: str) -> RawSample:
    """The sample `image_id`, which the manifest says to be the bytes [start, end) of a tar.

    Raises:
        DamagedShardError: naming the tar, when there is something else.
    """
    if end - start <= WHOLE_BYTES:
        return cut_sample(image_id, read(start, end), 0, end - start, where, start)
    # Large members are read to where they stay; only what is left is cut, and so copied once more.
    prefix = image_id.encode() + b"."
    image, panoptic_png = None, b""
    while end - start > WHOLE_BYTES:
        header = read(start, start + BLOCK)
        if len(header) != BLOCK:
            raise _not_whole(image_id, where)
        name, size = _parse_header(header, 0, where, start)
        first = start + BLOCK
        extension = name[len(prefix) :]
        is_image = image is None and b"." not in extension
        if first + size > end or not name.startswith(prefix):
            raise _not_whole(image_id, where)
        if not is_image and extension != _PANOPTIC:
            break
        contents = read(first, first + size)
        if len(contents) != size:
            raise _not_whole(image_id, where)
        if is_image:
            image = contents
        else:
            panoptic_png = contents
        start = first + size + (-size % BLOCK)
    return cut_sample(image_id, read(start, end), 0, end - start, where, start, image, panoptic_png)


def cut_sample(
    image_id: str,
    data: bytes,
    start: int,
    end: int,
    where: str,
    offset: int,
    image: bytes | None = None,
    panoptic_png: bytes = b"",
) -> RawSample:
    """`read_sample` of bytes at hand: [start, end) of `data`, which lies at `offset` of the tar; `image` and
    `panoptic_png` where they were read before."""
    if len(data) < end or (end - start) % BLOCK:
        raise _not_whole(image_id, where)
    prefix = image_id.encode() + b"."
    length = len(prefix)
    segments_json = None
    while start < end:
        name, size = _parse_header(data, start, where, offset)
        first = start + BLOCK
        start = first + size + (-size % BLOCK)
        if start > end or not name.startswith(prefix):
            raise _not_whole(image_id, where)
        extension = name[length:]
        if extension == _PANOPTIC:
            panoptic_png = data[first : first + size]
        elif extension == _SEGMENTS:
            segments_json = data[first : first + size]
        elif image is None and b"." not in extension:
            image = data[first : first + size]
    if image is None or segments_json is None:
        raise DamagedShardError(f"{where}: sample {image_id!r} needs an image and {SEGMENTS_EXTENSION}")
    return RawSample(image_id, image, panoptic_png, segments_json)


def _not_whole(image_id: str, where: str) -> DamagedShardError:
    return DamagedShardError(f"{where} is damaged: no whole sample {image_id!r} at its place")


def sample_offsets(data: bytes, where: str) -> Iterator[tuple[int, str]]:
    """(offset, id) of each sample that a tar holds, by its headers alone.

    Raises:
        DamagedShardError: a header that is none of ours, a wrong checksum, or contents that end early.
    """
    position, key = 0, ""
    while position + BLOCK <= len(data) and data[position]:
        name, size = _parse_header(data, position, where, 0)
        sample_id = name.partition(b".")[0].decode("ascii", "replace")
        if sample_id != key:
            yield position, sample_id
        key = sample_id
        position += BLOCK + size + (-size % BLOCK)
    if position > len(data):
        raise DamagedShardError(f"{where} is damaged: the last member ends after the file does")
