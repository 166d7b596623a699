"""Tensors on their way between parts: what comes out is what went in, in memory that was not copied."""

from __future__ import annotations

import pickle
from typing import TypeVar

import pytest
import torch
from ray import cloudpickle

from serve.travel import check_image, share_tensors

T = TypeVar("T")


def there_and_back(value: T) -> tuple[T, list[pickle.PickleBuffer]]:
    """As Ray does: the bytes of arrays stay out of the pickle, and come back as memory that nobody may write to."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    assert len(pickled) < 10_000
    return pickle.loads(pickled, buffers=[buffer.raw().toreadonly() for buffer in buffers]), buffers


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.bool, torch.int64])
@pytest.mark.parametrize("shape", [(1, 3, 32, 48), (1, 0, 0, 0), ()])
def test_a_tensor_comes_out_as_it_went_in(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    share_tensors()
    tensor = (torch.rand(shape) * 200).to(dtype)
    back, _ = there_and_back(tensor)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(back, tensor)


def test_parts_of_tensors_and_those_with_gradients_travel_too() -> None:
    share_tensors()
    whole = torch.rand(4, 6, requires_grad=True)
    back, _ = there_and_back([whole[:, ::2], whole.t()])
    assert torch.equal(back[0], whole[:, ::2])
    assert torch.equal(back[1], whole.t())
    assert not any(tensor.requires_grad for tensor in back)


def test_what_arrives_is_the_memory_that_was_handed_over() -> None:
    share_tensors()
    image = check_image()
    back, buffers = there_and_back(image)
    pixels = image.batch.images
    assert back.batch.images.data_ptr() == pixels.data_ptr()
    assert back.geometry == image.geometry
    assert sum(len(buffer.raw()) for buffer in buffers) >= pixels.nbytes
