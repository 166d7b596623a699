"""The smallest training that shows something: four scenes, and the encoders' pre-training steps."""

import copy
import dataclasses
import multiprocessing
import os
import signal
import time

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

import frozenseg
from frozenseg.classify import embed_vocabulary
from frozenseg.decoder import MaskDecoder
from frozenseg.decoder.config import DecoderConfig
from frozenseg.errors import FrozenSegError
from frozenseg.losses import Criterion
from frozenseg.miniature import training_vocabulary
from frozenseg.miniature.evaluate import evaluate
from frozenseg.miniature.iou_head import IouHeadFitting, collect, fit_iou_head
from frozenseg.miniature.pretrain import Pretraining, _run_together, pretrain
from frozenseg.miniature.pretrain_clip import ClipPretraining, pretrain_clip, region_cells
from frozenseg.miniature.pretrain_sam import SamPretraining, pretrain_sam
from frozenseg.miniature.pretraining import ScenePool, learning_rate_factor
from frozenseg.miniature.sam_points import actual_iou, sample_points
from frozenseg.miniature.train_decoder import DecoderTraining, miniature_decoder_config, train_decoder
from frozenseg.miniature.views import load_views, make_views, save_views

TINY = dataclasses.replace(
    miniature_decoder_config(),
    hidden_dim=64,
    num_queries=12,
    num_layers=3,
    feedforward_dim=128,
    query_injector_layers=(1,),
    feature_injector_layers=(0,),
)


@pytest.fixture(scope="module")
def model():
    return frozenseg.load("miniature", device="cpu").model


@pytest.fixture(scope="module")
def views(model):
    return make_views(model.clip, model.sam, training_vocabulary(), "base", 4, seed=11)


def pixel_accuracy(decoder, views, text):
    """Share of pixels whose likeliest category (by the decoder alone) is the truth's."""
    with torch.no_grad():
        output = decoder(views.features(range(4)), text)
    shares = output.class_logits.softmax(-1)[..., :-1]
    votes = torch.einsum("bqk,bqhw->bkhw", shares, output.mask_logits.sigmoid())
    guess = torch.nn.functional.interpolate(votes, size=(128, 128), mode="bilinear").argmax(1)
    right = total = 0
    for found, target in zip(guess, views.targets, strict=True):
        truth = (target.masks.long() * (target.category_ids[:, None, None] + 1)).sum(0)
        right += int(((found + 1) == truth).sum())
        total += int((truth > 0).sum())
    return right / total


def test_four_scenes_are_learnt_by_heart(model, views):
    text = embed_vocabulary(model.clip, training_vocabulary())
    losses = []
    settings = DecoderTraining(
        num_steps=60, batch_size=4, learning_rate=2e-3, average_decay=0.0, flip=False, half=False, decoder=TINY,
        num_points=512,
    )  # fmt: skip
    decoder = train_decoder(views, text, settings, lambda step, loss: losses.append(loss))
    assert losses[-1] < losses[0] / 3
    assert pixel_accuracy(decoder, views, text) > 0.9
    untrained = train_decoder(views, text, dataclasses.replace(settings, num_steps=0))
    assert pixel_accuracy(untrained, views, text) < 0.5


def test_training_repeats_itself(model, views):
    text = embed_vocabulary(model.clip, training_vocabulary())
    settings = DecoderTraining(num_steps=2, batch_size=2, decoder=TINY, num_points=64)
    first, second = (train_decoder(views, text, settings).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_workers_of_the_same_views_train_as_one(model, views, monkeypatch):
    """The other worker is played by this one: what is summed over both is twice its own."""
    text = embed_vocabulary(model.clip, training_vocabulary())
    settings = DecoderTraining(num_steps=2, batch_size=4, decoder=TINY, num_points=64)
    sums = []

    def double(tensor, group):
        sums.append(tensor.numel())
        tensor.mul_(2)

    monkeypatch.setattr(dist, "get_rank", lambda group: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    monkeypatch.setattr(dist, "all_reduce", double)
    both = train_decoder(views, text, settings, workers=object()).state_dict()
    alone = train_decoder(views, text, dataclasses.replace(settings, batch_size=2)).state_dict()
    assert all(torch.equal(both[name], alone[name]) for name in alone)
    assert len(sums) == 4  # masks, then all gradients, in each step
    assert sums[0] == 1
    assert sums[1] > 1000
    with pytest.raises(ValueError, match="multiple of the 2 workers"):
        train_decoder(views, text, dataclasses.replace(settings, batch_size=3), workers=object())


def test_mirrored_views_are_mirrored_in_maps_and_masks(model, views, monkeypatch):
    """Of 2 N numbers in a permutation, every view comes once as it is and once mirrored, maps and masks together."""
    text = embed_vocabulary(model.clip, training_vocabulary())
    seen = []
    plain = Criterion.__call__

    def look(self, output, targets, num_masks):
        seen.extend(targets)
        return plain(self, output, targets, num_masks)

    fed = []
    forward = MaskDecoder.forward

    def feed(self, features, text):
        fed.append(features)
        return forward(self, features, text)

    monkeypatch.setattr(Criterion, "__call__", look)
    monkeypatch.setattr(MaskDecoder, "forward", feed)
    train_decoder(views, text, DecoderTraining(num_steps=2, batch_size=len(views), decoder=TINY, num_points=16))
    sam = torch.cat([features.sam for features in fed])
    pairs = set()
    for row, target in zip(sam, seen, strict=True):
        for number, (own, truth) in enumerate(zip(views.maps[5].float(), views.targets, strict=True)):
            for flip in (False, True):
                if torch.equal(row, own.flip(-1) if flip else own):
                    assert torch.equal(target.masks, truth.masks.flip(-1) if flip else truth.masks)
                    pairs.add((number, flip))
    assert pairs == {(number, flip) for number in range(len(views)) for flip in (False, True)}


def test_views_survive_the_disk(views, tmp_path):
    save_views(views, tmp_path / "views.safetensors")
    again = load_views(tmp_path / "views.safetensors", training_vocabulary())
    assert again.source == views.source
    assert again.segments == views.segments
    assert all(torch.equal(a, b) for a, b in zip(again.maps, views.maps, strict=True))
    for a, b in zip(again.targets, views.targets, strict=True):
        assert torch.equal(a.masks, b.masks)
        assert torch.equal(a.category_ids, b.category_ids)


def test_resumed_pretraining_is_the_uninterrupted_one(tmp_path):
    settings = ClipPretraining(num_scenes=4, num_steps=2, batch_size=2)
    whole = pretrain_clip(settings, tmp_path / "whole.pt", lambda step, loss: None)
    partial = torch.load(tmp_path / "whole.pt", weights_only=True)
    assert partial["step"] == 2
    again = pretrain_clip(settings, tmp_path / "whole.pt", lambda step, loss: pytest.fail("nothing was left to do"))
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.slow
def test_a_model_from_nothing(tmp_path, capfd):
    """CLIP and SAM side by side, then the decoder by two workers; what is finished is not done again."""
    settings = Pretraining(
        clip=ClipPretraining(num_scenes=4, num_steps=2, batch_size=2),
        sam=SamPretraining(
            num_scenes=3, num_steps=2, num_encoder_steps=1, num_mask_steps=1, batch_size=1, num_points=2,
            iou_head=IouHeadFitting(num_scenes=2, num_points=4, num_steps=3),
        ),
        decoder=DecoderTraining(num_steps=20, batch_size=2, num_points=64),
        num_views=4,
        num_workers=2,
    )  # fmt: skip
    work = tmp_path / "work"
    pretrain(settings, work, tmp_path / "first")
    assert "decoder: step 20" in capfd.readouterr().out
    assert frozenseg.load(tmp_path / "first", device="cpu").model.spec.sam is not None
    (work / "decoder.safetensors").rename(tmp_path / "decoder.safetensors")
    (work / "decoder-workers").write_text("left by a run that was cut off")
    pretrain(settings, work, tmp_path / "second")
    found = capfd.readouterr().out
    assert "decoder: step 20" in found
    assert "CLIP" not in found
    assert "SAM" not in found
    first, second = (load_file(folder / "decoder.safetensors") for folder in (tmp_path, work))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="num_workers: 3"):
        pretrain(dataclasses.replace(settings, num_workers=3), work, tmp_path / "third")


def test_a_worker_that_fails_ends_the_other():
    context = multiprocessing.get_context("spawn")
    fails = context.Process(target=os._exit, args=(3,), name="decoder, worker 0")
    waits = context.Process(target=time.sleep, args=(600,), name="decoder, worker 1")
    with pytest.raises(FrozenSegError, match="of decoder, worker 0 failed"):
        _run_together(fails, waits, need_each_other=True)
    assert waits.exitcode == -signal.SIGTERM


def test_sam_pretraining_takes_both_phases(tmp_path):
    losses = []
    settings = SamPretraining(
        num_scenes=3, num_steps=2, num_encoder_steps=1, num_mask_steps=1, batch_size=1, num_points=2,
        iou_head=IouHeadFitting(num_scenes=2, num_points=4, num_steps=3),
    )  # fmt: skip
    encoder = pretrain_sam(settings, tmp_path / "sam.pt", lambda step, loss: losses.append(loss))
    assert len(losses) == 2  # one report of each of its two runs
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    (tmp_path / "sam.pt").unlink()  # what is finished needs no stage again
    again = pretrain_sam(settings, tmp_path / "sam.pt", lambda step, loss: pytest.fail("nothing was left to do"))
    for (name, a), b in zip(encoder.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_the_fitted_head_knows_its_masks_and_leaves_them_alone(model):
    encoder = copy.deepcopy(model.sam)
    settings = IouHeadFitting(num_scenes=6, num_points=8, num_steps=150, batch_size=32)
    with torch.no_grad():
        for parameter in encoder.sam.mask_decoder.iou_prediction_head.parameters():
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    tokens, iou = collect(encoder, settings)
    assert tokens.shape == (48, encoder.sam.mask_decoder.transformer_dim)
    guess = (iou - iou.median(0).values).abs().mean()
    assert fit_iou_head(encoder, settings) < 0.7 * guess
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]) == ("iou_prediction_head" not in name), name
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_points_lie_in_their_segments():
    pool = ScenePool.make(1, 2)
    points, truth = sample_points(pool.segment_ids[0].long(), 20, torch.Generator().manual_seed(0))
    for (x, y), mask in zip(points.tolist(), truth, strict=True):
        assert mask[int(y / 2), int(x / 2)] == 1


def test_cells_are_those_of_mask_pooling(model, views):
    """Pre-training pools the cells that prediction's mask pooling will take."""
    masks = views.targets[0].masks.float()
    logits = torch.nn.functional.avg_pool2d(masks[:, None] * 2 - 1, 2)[:, 0]
    dense = torch.arange(64.0).view(1, 1, 8, 8)
    from frozenseg.ops import pool_masks

    pooled = pool_masks(dense, logits[None])[0, :, 0]
    cells = region_cells(masks, 8).float()
    expected = (cells * dense[0]).flatten(1).sum(1) / (cells.flatten(1).sum(1) + 1e-8)
    assert torch.allclose(pooled, expected, atol=1e-4)


def test_iou_of_logits():
    logits = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]])
    truth = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert actual_iou(logits, truth).tolist() == [0.5]


def test_learning_rate_rises_holds_and_falls():
    factors = [learning_rate_factor(step, 100, 10, 0.5) for step in range(100)]
    assert factors[0] == 0.1
    assert factors[9] == factors[50] == 1.0
    assert factors[75] == 0.5
    assert factors[99] == pytest.approx(0.02)


def test_evaluation_fills_the_two_by_two(model):
    from frozenseg.inference.segmenter import Segmenter
    from frozenseg.miniature import full_vocabulary

    views = make_views(model.clip, model.sam, full_vocabulary(), "all", 6, seed=12)
    scores = evaluate(Segmenter(model), views)
    things = [s for scene in views.segments for s in scene if s.is_thing]
    assert sum(cell.num_segments for cell in scores.cells.values()) == len(things)
    assert 0 < scores.miou_seen <= 1


def test_the_default_decoder_is_what_the_docs_say():
    config = miniature_decoder_config()
    assert isinstance(config, DecoderConfig)
    assert (config.hidden_dim, config.num_queries, config.num_layers, config.pixel_decoder_layers) == (96, 24, 6, 1)
