"""A training step (forward, losses, backward, clip, AdamW) at full decoder size: ours against the plain step.

    python -m benchmarks.train_step [--crop 512] [--batch 2] [--rounds 3]

The plain step is the same decoder with the published form of deformable attention (one grid_sample per level) and of
the masks' product, pooling and resizing, and one matching per image and output (benchmarks/baselines/).
With --attention-and-losses-only the plain step shares all of ours but the attention and the losses. Same features, same
random draws, one thread, interleaved; prints CPU seconds, the median ratio and both losses.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.baselines.decoder import plain_attention, plain_decoder
from benchmarks.baselines.losses import total_loss
from frozenseg.decoder import DecoderConfig, MaskDecoder
from frozenseg.losses import Criterion
from frozenseg.training import Engine, OptimizerSettings, TorchEngine
from frozenseg.types import DecoderOutput, EncoderFeatures, FeatureKey, PanopticTarget, TextEmbeddings


def make_features(config: DecoderConfig, batch: int, crop: int) -> EncoderFeatures:
    generator = torch.Generator().manual_seed(0)

    def level(channels: int, size: int) -> Tensor:
        return torch.randn(batch, channels, size, size, generator=generator)

    first, second, third, fourth = (
        level(channels, crop // stride) for channels, stride in zip(config.clip_channels, (4, 8, 16, 32), strict=True)
    )
    return EncoderFeatures(
        clip_pyramid=(first, second, third, fourth),
        clip_dense=fourth,
        sam=level(config.sam_channels, 64),
        source=FeatureKey(clip="random", sam="random", weights_hash=""),
    )


def make_targets(batch: int, crop: int, segments: int, categories: int) -> list[PanopticTarget]:
    generator = torch.Generator().manual_seed(1)
    targets = []
    for _ in range(batch):
        coarse = torch.randn(1, segments, 6, 6, generator=generator)
        labels = torch.nn.functional.interpolate(coarse, size=(crop, crop), mode="bicubic")[0].argmax(0)
        targets.append(
            PanopticTarget(
                masks=torch.stack([labels == number for number in range(segments)]),
                category_ids=torch.randint(0, categories, (segments,), generator=generator),
                is_thing=torch.ones(segments, dtype=torch.bool),
            )
        )
    return targets


def timed_step(
    engine: Engine, features: EncoderFeatures, text: TextEmbeddings, loss_of: Callable[[DecoderOutput], Tensor]
) -> tuple[float, float]:
    torch.manual_seed(0)
    start = time.process_time()
    loss = loss_of(engine.forward(features, text))
    engine.backward(loss, last=True)
    engine.step(1e-6)
    return time.process_time() - start, loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--segments", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attention-and-losses-only", action="store_true", help="plain is only these two")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config, categories = DecoderConfig(), 133
    features = make_features(config, options.batch, options.crop)
    targets = make_targets(options.batch, options.crop, options.segments, categories)
    rows = torch.nn.functional.normalize(torch.randn(categories, config.embedding_dim), dim=1)
    text = TextEmbeddings(rows=rows, row_category=torch.arange(categories))
    torch.manual_seed(0)
    decoder = MaskDecoder(config)
    engines = []
    for _ in range(2):
        twin = MaskDecoder(config)
        twin.load_state_dict(decoder.state_dict())
        engines.append(TorchEngine(twin, OptimizerSettings()))
    criterion = Criterion()
    ratios = []
    for number in range(options.rounds):
        with plain_attention() if options.attention_and_losses_only else plain_decoder():
            plain, plain_loss = timed_step(engines[0], features, text, lambda output: total_loss(output, targets))
        ours, our_loss = timed_step(engines[1], features, text, lambda output: criterion(output, targets).total)
        ratios.append(plain / ours)
        print(f"round {number}: plain {plain:.2f} s, ours {ours:.2f} s, ratio {plain / ours:.2f}", flush=True)
        print(f"  losses {plain_loss:.4f} {our_loss:.4f}")
    print(f"median ratio {statistics.median(ratios):.2f} (to reach: 1.5)")


if __name__ == "__main__":
    main()
