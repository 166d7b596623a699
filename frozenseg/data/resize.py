"""The resize of evaluation: the short side to a fixed length, unless the long side would grow beyond its limit."""

from __future__ import annotations

from frozenseg.types import ImageSample, Size


def size_for_test(size: Size, shortest: int, longest: int) -> Size:
    """The (height, width) to which an image of `size` is brought, aspect kept, rounded half up.

    >>> size_for_test((480, 640), 800, 1333)
    (800, 1067)
    """
    height, width = size
    scale = shortest / min(height, width)
    if max(height, width) * scale > longest:
        scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_for_test(sample: ImageSample, shortest: int = 800, longest: int = 1333) -> ImageSample:
    """Bilinear, antialiased, rounded to uint8; `original_size` stays that of the file.

    COCO and ADE20K are tested at 800 / 1333, Cityscapes and Mapillary at 1024 / 2560.
    """
    height, width = sample.image.shape[-2:]
    size = size_for_test((height, width), shortest, longest)
    if size == (height, width):
        return sample
    from torchvision.transforms import v2  # late: its import costs seconds, which readers do without

    image = v2.functional.resize(sample.image, list(size), antialias=True)
    return ImageSample(image_id=sample.image_id, image=image, original_size=sample.original_size)
