"""What travels between machines comes out as it went in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frozenseg.errors import UserInputError
from frozenseg.types import EncoderFeatures, FeatureKey, PanopticTarget, stack_features
from pipelines.codec import BLOCK, Codec, bytes_per_value, decode_into, encode
from pipelines.columns import (
    columns_to_features,
    columns_to_targets,
    features_to_columns,
    target_to_columns,
    write_features,
    write_row,
)


def make_features(seed: int, batch: int = 2, with_sam: bool = True) -> EncoderFeatures:
    random = torch.Generator().manual_seed(seed)

    def maps(channels: int, side: int) -> torch.Tensor:
        return torch.randn((batch, channels, side, side + 1), generator=random) * 3 + 1

    return EncoderFeatures(
        clip_pyramid=(maps(3, 16), maps(4, 8), maps(5, 4), maps(6, 2)),
        clip_dense=maps(7, 2),
        sam=maps(2, 4) if with_sam else torch.zeros(batch, 0, 0, 0),
        source=FeatureKey(clip="a", sam="b", weights_hash="c"),
    )


def levels(features: EncoderFeatures) -> list[torch.Tensor]:
    return [*features.clip_pyramid, features.clip_dense, features.sam]


def read_only(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As Ray hands them out."""
    for array in columns.values():
        array.flags.writeable = False
    return columns


@pytest.mark.parametrize("with_sam", [True, False])
@pytest.mark.parametrize("codec", ["float32", "bfloat16"])
def test_features_come_back(codec: Codec, with_sam: bool) -> None:
    first, second = make_features(0, 2, with_sam), make_features(1, 1, with_sam)
    rows = [read_only(features_to_columns(f, codec)) for f in (first, second)]
    back = columns_to_features(rows, torch.float32)
    expected = [torch.cat(pair) for pair in zip(levels(first), levels(second), strict=True)]
    if codec == "bfloat16":
        expected = [values.bfloat16().float() for values in expected]
    assert all(torch.equal(a, b) for a, b in zip(levels(back), expected, strict=True))
    assert back.source.dtype == codec
    assert back.batch_size == 3


def test_the_dense_map_stays_behind_when_nobody_reads_it() -> None:
    columns = features_to_columns(make_features(0), with_dense=False)
    assert "clip_dense" not in columns
    back = columns_to_features([columns], torch.bfloat16)
    assert back.clip_dense.shape == (2, 0, 0, 0)
    assert back.batch_size == 2
    assert back.clip_pyramid[0].dtype == torch.bfloat16


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "uint8"])
def test_features_are_written_into_rows_of_a_block(codec: Codec) -> None:
    parts, columns = [make_features(0, 2), make_features(1, 1), make_features(2, 2)], {}
    for start, part in zip((0, 2, 3), parts, strict=True):
        write_features(columns, slice(start, start + part.batch_size), 5, part, codec, with_dense=True)
    whole = features_to_columns(stack_features(parts), codec)
    whole.pop("feature_source")
    assert columns.keys() == whole.keys()
    assert all(np.array_equal(columns[name], values) for name, values in whole.items())
    row: dict[str, np.ndarray] = {}
    write_row(row, 0, 1, {name: values[3] for name, values in columns.items()})
    assert all(np.array_equal(row[name][0], values[3]) for name, values in whole.items())


def test_features_of_different_encoders_or_codecs_are_not_mixed() -> None:
    features = make_features(0)
    with pytest.raises(UserInputError, match="cannot be mixed"):
        columns_to_features(
            [features_to_columns(features, "float32"), features_to_columns(features, "bfloat16")], torch.float32
        )


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 2, 64, 64), (1, 2, 70, 80), (1, 1, 1, 1)])
def test_8_bit_errs_by_half_a_step_of_its_block_at_most(shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0])[0]
    values[0, 0, 0, 0] = 1000.0  # an outlier costs its own block only
    arrays = encode(values, "uint8")
    back = torch.empty_like(values)
    decode_into(back, arrays)
    flat, flat_back = values.reshape(*shape[:2], -1), back.reshape(*shape[:2], -1)
    for start in range(0, flat.shape[-1], BLOCK):
        block, block_back = flat[..., start : start + BLOCK], flat_back[..., start : start + BLOCK]
        half_step = (block.amax(-1) - block.amin(-1)) / 255 / 2
        assert ((block - block_back).abs().amax(-1) <= half_step * 1.001 + 1e-6).all()
    if flat.shape[-1] > BLOCK:
        assert (flat - flat_back)[..., BLOCK:].abs().max() < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 3, 70, 80)])
def test_8_bit_is_decoded_to_what_torchs_operators_give(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3
    values[0, 0, 0, 0], values[0, 1, 0, 1] = float("nan"), float("inf")
    arrays = read_only(encode(values, "uint8"))
    back = torch.empty(shape, dtype=dtype)
    decode_into(back, arrays)
    codes = torch.tensor(arrays[""]).flatten(2).float()
    scale, offset = (torch.tensor(arrays[name]).repeat_interleave(BLOCK, dim=2) for name in ("scale", "offset"))
    size = codes.shape[2]
    expected = codes.mul(scale[..., :size]).add(offset[..., :size]).to(dtype).view(shape)
    torch.testing.assert_close(back, expected, rtol=0, atol=0, equal_nan=True)
    assert expected[0, :2].isnan().any()
    assert expected[-1, -1].isfinite().all()


def test_8_bit_of_constant_maps_is_exact_and_small() -> None:
    values = torch.full((1, 2, 64, 64), 0.125)
    arrays = encode(values, "uint8")
    back = torch.empty_like(values)
    decode_into(back, read_only(arrays))
    assert torch.equal(back, values)
    assert sum(array.nbytes for array in arrays.values()) == values.numel() * bytes_per_value("uint8")


def test_codes_that_are_none_are_refused() -> None:
    with pytest.raises(UserInputError, match="expected float32, bfloat16 or uint8"):
        encode(torch.zeros(1, 1, 1, 1), "int4")  # type: ignore[arg-type]
    with pytest.raises(UserInputError, match="found int64"):
        decode_into(torch.zeros(1, 1, 1, 1), {"": np.zeros((1, 1, 1, 1), dtype=np.int64)})
    with pytest.raises(UserInputError, match="expected an array of shape"):
        decode_into(torch.zeros(1, 1, 1, 2), {"": np.zeros((1, 1, 1, 1), dtype=np.float32)})


def test_targets_come_back() -> None:
    random = torch.Generator().manual_seed(0)
    targets = [
        PanopticTarget(
            masks=torch.rand((n, 5, 7), generator=random) > 0.5,
            category_ids=torch.arange(n) * 300,
            is_thing=torch.arange(n) % 2 == 0,
        )
        for n in (3, 0, 1)
    ]
    back = columns_to_targets(read_only(target_to_columns(targets)))
    for target, found in zip(targets, back, strict=True):
        assert torch.equal(target.masks, found.masks)
        assert torch.equal(target.category_ids, found.category_ids)
        assert torch.equal(target.is_thing, found.is_thing)
