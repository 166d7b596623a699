"""Class logits and the ensemble, against the formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from frozenseg.classify import class_logits, ensemble_class_scores
from frozenseg.types import TextEmbeddings


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def text_rows(counts: list[int], dim: int = 8, seed: int = 0) -> TextEmbeddings:
    rows = F.normalize(torch.randn(sum(counts), dim, generator=torch.Generator().manual_seed(seed)), dim=-1)
    return TextEmbeddings(rows=rows, row_category=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)))


def test_a_categorys_logit_is_the_maximum_over_its_names() -> None:
    text, x, void = text_rows([1, 3, 2]), torch.randn(2, 5, 8) * 7, torch.randn(8) * 3
    cosine = F.normalize(x, dim=-1) @ text.rows.T
    expected = torch.stack([cosine[..., 0], cosine[..., 1:4].amax(-1), cosine[..., 4:6].amax(-1)], dim=-1) * 20
    torch.testing.assert_close(class_logits(x, text, 20.0), expected)
    with_void = class_logits(x, text, 20.0, void)
    assert tuple(with_void.shape) == (2, 5, 4)
    torch.testing.assert_close(with_void[..., :-1], expected)
    torch.testing.assert_close(with_void[..., -1], 20 * F.cosine_similarity(x, void, dim=-1))


def test_one_category_of_one_name() -> None:
    assert tuple(class_logits(torch.randn(1, 2, 8), text_rows([1]), 10.0).shape) == (1, 2, 1)


def published(decoder: torch.Tensor, clip: torch.Tensor, seen: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    """Eq. 3 with powers of probabilities, one query at a time, in double precision."""
    p_in, p_out = decoder[..., :-1].double().softmax(-1), clip.double().softmax(-1)
    void = decoder.double().softmax(-1)[..., -1:]
    mixed_seen = (p_in ** (1 - alpha) * p_out**alpha).log()
    mixed_unseen = (p_in ** (1 - beta) * p_out**beta).log()
    mixed = torch.where(seen, mixed_seen, mixed_unseen).softmax(-1)
    return torch.log(torch.cat([mixed * (1 - void), void], -1) + 1e-8).float()


@pytest.mark.parametrize(("alpha", "beta"), [(0.4, 0.8), (0.0, 1.0), (0.0, 0.0)])
def test_the_ensemble_is_equation_3(alpha: float, beta: float) -> None:
    decoder, clip = torch.randn(2, 6, 5) * 4, torch.randn(2, 6, 4) * 4
    seen = torch.tensor([True, False, True, False])
    found = ensemble_class_scores(decoder, clip, None, seen, alpha, beta)
    torch.testing.assert_close(found, published(decoder, clip, seen, alpha, beta), atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 6), atol=1e-5, rtol=0)


def test_an_empty_mask_leaves_the_decoder_alone_even_where_clip_says_nan() -> None:
    decoder, clip = torch.randn(1, 3, 5), torch.randn(1, 3, 4)
    clip[0, 1] = float("nan")
    non_empty = torch.tensor([[True, False, True]])
    seen = torch.tensor([True, False, False, True])
    found = ensemble_class_scores(decoder, clip, non_empty, seen, 0.4, 0.8)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[0, 1], torch.log(decoder[0, 1].softmax(-1) + 1e-8))
    expected = published(decoder, clip, seen, 0.4, 0.8)
    torch.testing.assert_close(found[0, [0, 2]], expected[0, [0, 2]], atol=5e-5, rtol=1e-5)


def test_probabilities_that_underflow_stay_finite() -> None:
    """p ** alpha of a vanished probability is 0 and its log -inf; the logarithms here never leave the finite."""
    decoder = torch.tensor([[[300.0, -300.0, 0.0, -400.0]]])
    clip = torch.tensor([[[-300.0, 300.0, 0.0]]])
    found = ensemble_class_scores(decoder, clip, None, torch.tensor([True, True, False]), 0.0, 1.0)
    assert torch.isfinite(found).all()
    assert found.min() >= math.log(1e-8) - 1e-4


def test_one_category_and_half_precision() -> None:
    found = ensemble_class_scores(
        torch.zeros(1, 1, 2, dtype=torch.float16), torch.zeros(1, 1, 1, dtype=torch.float16), None, torch.tensor([True])
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.full((1, 1, 2), math.log(0.5)))


def test_seen_and_unseen_take_their_own_weight() -> None:
    """alpha 0 and beta 1: the seen category follows the decoder, the unseen one CLIP."""
    decoder = torch.tensor([[[2.0, -1.0, 0.0]]])
    clip = torch.tensor([[[-3.0, 1.5]]])
    found = ensemble_class_scores(decoder, clip, None, torch.tensor([True, False]), 0.0, 1.0)[0, 0]
    expected = F.log_softmax(decoder[0, 0, :2], -1)[0] - F.log_softmax(clip[0, 0], -1)[1]
    assert (found[0] - found[1]).item() == pytest.approx(expected.item(), abs=1e-4)
