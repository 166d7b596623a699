"""The decoder at small sizes: placements, edges, precision, what the golden figures don't tell apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from frozenseg.decoder import DecoderConfig, MaskDecoder
from frozenseg.decoder.layers import AttentionBlock, open_blocked_rows
from frozenseg.decoder.transformer import TransformerDecoder
from frozenseg.errors import UserInputError
from frozenseg.types import EncoderFeatures, FeatureKey, TextEmbeddings

SMALL = DecoderConfig(
    clip_channels=(16, 24, 32, 40),
    embedding_dim=48,
    sam_channels=64,
    hidden_dim=32,
    mask_dim=32,
    num_queries=5,
    num_heads=4,
    num_layers=6,
    feedforward_dim=64,
    pixel_decoder_layers=1,
    pixel_decoder_feedforward_dim=48,
    query_injector_layers=(2, 5),
    feature_injector_layers=(0, 3),
)
OFF = {"query_injector_layers": (), "feature_injector_layers": (), "sam_channels": 0}


def features(config: DecoderConfig, size=(96, 64), batch=2, sam_size=(13, 9), seed=0) -> EncoderFeatures:
    g = torch.Generator().manual_seed(seed)
    height, width = size
    pyramid = tuple(
        torch.randn(batch, channels, height // stride, width // stride, generator=g)
        for channels, stride in zip(config.clip_channels, (4, 8, 16, 32), strict=True)
    )
    sam_shape = (batch, config.sam_channels, *sam_size) if config.sam_channels else (batch, 0, 0, 0)
    return EncoderFeatures(
        clip_pyramid=pyramid,
        clip_dense=pyramid[3],
        sam=torch.randn(sam_shape, generator=g),
        source=FeatureKey(clip="random", sam="random", weights_hash=""),
    )


def text(config: DecoderConfig, row_category=(0, 0, 1, 2)) -> TextEmbeddings:
    g = torch.Generator().manual_seed(9)
    rows = torch.nn.functional.normalize(torch.randn(len(row_category), config.embedding_dim, generator=g), dim=-1)
    return TextEmbeddings(rows=rows, row_category=torch.tensor(row_category))


def build(config: DecoderConfig, seed: int = 5) -> MaskDecoder:
    torch.manual_seed(seed)
    decoder = MaskDecoder(config)
    with torch.no_grad():  # the deformable offsets' weights start at zero: give every parameter a say
        for parameter in decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return decoder


def test_shapes_and_order_of_the_predictions() -> None:
    output = build(SMALL)(features(SMALL), text(SMALL))
    assert output.mask_logits.shape == (2, 5, 24, 16)
    assert output.class_logits.shape == (2, 5, 4)
    assert len(output.auxiliary) == SMALL.num_layers
    assert all(p.mask_logits.shape == output.mask_logits.shape for p in output.auxiliary)


@pytest.mark.parametrize("size", [(32, 32), (32, 256), (416, 32)])
@pytest.mark.parametrize("training", [True, False])
def test_any_aspect(size: tuple[int, int], training: bool) -> None:
    output = build(SMALL).train(training)(features(SMALL, size, batch=1), text(SMALL))
    assert output.mask_logits.shape == (1, 5, size[0] // 4, size[1] // 4)
    assert output.mask_logits.isfinite().all()
    assert output.class_logits.isfinite().all()


@pytest.mark.parametrize("memory", ["published", "own_level"])
def test_every_parameter_learns(memory) -> None:
    """But the injector after the last layer has no effect, and of the SAM branch's three levels only one exists."""
    decoder = build(replace(SMALL, sam_memory=memory)).train()
    output = decoder(features(SMALL), text(SMALL))
    predictions = (*output.auxiliary, output)
    loss = sum((p.mask_logits.square().mean() + p.class_logits.square().mean() for p in predictions), torch.tensor(0.0))
    loss.backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    dead = decoder.sam_branch.encoder.level_embedding.grad[1:]
    assert dead.abs().max() == 0


@pytest.mark.parametrize("layer", range(6))
@pytest.mark.parametrize("field", ["query_injector_layers", "feature_injector_layers"])
def test_an_injector_at_any_layer_changes_what_follows_it(field: str, layer: int) -> None:
    """Strides 32, 16 and 8 alike. With one injector on, SAM's map moves the predictions after it, and none before."""
    config = replace(SMALL, **{"query_injector_layers": (), "feature_injector_layers": (), field: (layer,)})
    decoder = build(config).eval()
    inputs = features(config)
    moved = replace(inputs, sam=inputs.sam + 1.0 * torch.randn(inputs.sam.shape))
    with torch.no_grad():
        before, after = decoder(inputs, text(config)), decoder(moved, text(config))
    same = [
        torch.equal(a.mask_logits, b.mask_logits)
        for a, b in zip((*before.auxiliary, before), (*after.auxiliary, after), strict=True)
    ]
    # Prediction i + 1 follows layer i. The Query Injector acts after its layer's heads, so one layer later.
    first_moved = layer + (1 if field == "feature_injector_layers" else 2)
    assert same == [index < first_moved for index in range(config.num_layers + 1)]


def test_without_injectors_there_is_no_sam() -> None:
    config = replace(SMALL, **OFF)
    decoder = build(config)
    assert not [key for key in decoder.state_dict() if "sam" in key or "injector" in key]
    output = decoder(features(config), text(config))
    assert output.mask_logits.isfinite().all()


def test_query_injector_alone_needs_no_sam_branch() -> None:
    decoder = MaskDecoder(replace(SMALL, feature_injector_layers=()))
    assert decoder.sam_branch is None
    assert decoder.transformer.heads.sam_projection is not None
    assert MaskDecoder(replace(SMALL, sam_channels=32)).transformer.heads.sam_projection is None


def test_sam_map_is_resized_in_evaluation_only() -> None:
    """A SAM map that is halved to the stride-32 grid exactly gives one result in both modes, another size two."""
    for sam_size, equal in (((6, 4), True), ((14, 10), False)):
        decoder, inputs = build(SMALL), features(SMALL, sam_size=sam_size)
        with torch.no_grad():
            training = decoder.train()(inputs, text(SMALL)).mask_logits
            evaluation = decoder.eval()(inputs, text(SMALL)).mask_logits
        assert torch.equal(training, evaluation) == equal


def test_published_memory_leaks_through_a_batch_and_own_level_does_not() -> None:
    inputs = features(SMALL, batch=4)
    other = replace(inputs, sam=torch.cat([inputs.sam[:1] + 1, inputs.sam[1:]]))
    for memory, leaks in (("published", True), ("own_level", False)):
        decoder = build(replace(SMALL, sam_memory=memory)).eval()
        with torch.no_grad():
            a, b = decoder(inputs, text(SMALL)).mask_logits, decoder(other, text(SMALL)).mask_logits
        assert torch.equal(a[1:], b[1:]) != leaks
        assert not torch.equal(a[0], b[0])


def test_both_memories_share_one_state_dict() -> None:
    published, own = build(replace(SMALL, sam_memory="published")), build(SMALL, seed=6)
    own.load_state_dict(published.state_dict())


def test_a_fully_blocked_row_sees_everything() -> None:
    blocked_row = torch.zeros(1, 2, 6, dtype=torch.bool)
    blocked_row[0, 1, 3] = True
    allowed = open_blocked_rows(blocked_row)
    assert allowed[0, 0].all()
    assert allowed[0, 1].tolist() == [False, False, False, True, False, False]
    block = AttentionBlock(32, 4)
    x, memory = torch.randn(1, 2, 32), torch.randn(1, 6, 32)
    free = block(x, memory)
    masked = block(x, memory, allowed=allowed)
    torch.testing.assert_close(masked[0, 0], free[0, 0])
    torch.testing.assert_close(masked[0, 1:], block(x[:, 1:], memory[:, 3:4])[0])


def test_allowed_cells_are_those_of_the_resized_logits() -> None:
    logits = torch.tensor([[[[3.0, -1.0], [-1.0, -2.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    assert TransformerDecoder._allowed(logits, (2, 2)).tolist() == [[[True, False, False, False], [True] * 4]]
    # The mean -0.25 of the first query blocks the only cell, which then is opened again.
    assert TransformerDecoder._allowed(logits, (1, 1)).tolist() == [[[True], [True]]]


def test_masks_without_a_cell_keep_the_predictions_finite() -> None:
    decoder = build(SMALL).train()
    with torch.no_grad():  # mask logits become a constant -1
        last = decoder.transformer.heads.mask_embedding.layers[-1]
        last.weight.zero_()
        last.bias.fill_(-1.0)
        decoder.pixel_decoder.mask_projection.weight.zero_()
        decoder.pixel_decoder.mask_projection.bias.fill_(1.0)
    output = decoder(features(SMALL), text(SMALL))
    assert (output.mask_logits < 0).all()
    output.class_logits.sum().backward()
    assert output.class_logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in decoder.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    decoder, inputs, rows = build(SMALL).train(), features(SMALL), text(SMALL)
    exact = decoder(inputs, rows).auxiliary[0]
    with torch.autocast("cpu", dtype=dtype):
        output = decoder(inputs, rows)
        loss = output.mask_logits.float().mean() + output.class_logits.mean()
    loss.backward()
    assert output.class_logits.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in decoder.parameters() if p.grad is not None)
    error = (output.auxiliary[0].mask_logits.float() - exact.mask_logits).abs().mean() / exact.mask_logits.abs().mean()
    assert error < 0.05


def test_whole_model_in_bfloat16() -> None:
    decoder = build(SMALL).eval().to(torch.bfloat16)
    with torch.no_grad():
        output = decoder(features(SMALL).to("cpu", torch.bfloat16), text(SMALL).to("cpu", torch.bfloat16))
    assert output.mask_logits.dtype == torch.bfloat16
    assert output.mask_logits.isfinite().all()


def test_same_result_alone_and_in_a_batch() -> None:
    decoder, inputs = build(SMALL).eval(), features(SMALL)
    alone = EncoderFeatures(
        clip_pyramid=tuple(level[1:] for level in inputs.clip_pyramid),
        clip_dense=inputs.clip_dense[1:],
        sam=inputs.sam[1:],
        source=inputs.source,
    )
    with torch.no_grad():
        together, apart = decoder(inputs, text(SMALL)), decoder(alone, text(SMALL))
    torch.testing.assert_close(together.auxiliary[1].mask_logits[1:], apart.auxiliary[1].mask_logits)


def test_features_of_other_widths_are_named() -> None:
    decoder = MaskDecoder(SMALL)
    good = features(SMALL)
    with pytest.raises(UserInputError, match=r"CLIP features have \(16, 24, 32, 8\) channels"):
        decoder(replace(good, clip_pyramid=(*good.clip_pyramid[:3], torch.zeros(2, 8, 3, 2))), text(SMALL))
    with pytest.raises(UserInputError, match="SAM features have 3 channels"):
        decoder(replace(good, sam=torch.zeros(2, 3, 8, 8)), text(SMALL))
    with pytest.raises(UserInputError, match="text embeddings are 7 wide"):
        decoder(good, TextEmbeddings(rows=torch.zeros(2, 7), row_category=torch.tensor([0, 1])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_dim": 100}, "hidden_dim"),
        ({"num_heads": 3}, "hidden_dim"),
        ({"num_queries": 0}, "num_queries"),
        ({"query_injector_layers": (6,)}, "query_injector_layers"),
        ({"feature_injector_layers": (0, 0)}, "feature_injector_layers"),
        ({"sam_channels": 0}, "sam_channels"),
    ],
)
def test_impossible_numbers_are_refused(change, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        replace(SMALL, **change)


def test_offsets_start_in_directions() -> None:
    attention = MaskDecoder(SMALL).pixel_decoder.encoder.layers[0].attention
    start = attention.offsets.bias.detach().reshape(4, 3, 4, 2)[:, :, :2]
    assert attention.offsets.weight.abs().max() == 0
    torch.testing.assert_close(start[0, 0], torch.tensor([[1.0, 0.0], [2.0, 0.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(start[1, 2], torch.tensor([[0.0, 1.0], [0.0, 2.0]]), atol=1e-6, rtol=0)
