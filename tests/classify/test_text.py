"""Vocabularies to text rows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from frozenseg.classify import VILD_TEMPLATES, embed_names, embed_vocabulary
from frozenseg.classify.text import TEXTS_PER_CALL
from frozenseg.encoders import BpeTokenizer, OpenClipConfig, TruncatedTextWarning, build_clip
from frozenseg.errors import UserInputError
from frozenseg.types import Category, Vocabulary


class CountingEncoder:
    """Deterministic vectors by text; remembers every call."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.calls.append(list(texts))
        return torch.stack([vector(text) for text in texts]) if texts else torch.zeros(0, 8)


def vector(text: str) -> Tensor:
    seed = int.from_bytes(text.encode()[-6:].rjust(6, b"x")) + len(text)
    return torch.randn(8, generator=torch.Generator().manual_seed(seed)) * (1 + len(text))


def vocabulary(*names: Sequence[str]) -> Vocabulary:
    return Vocabulary(categories=tuple(Category(name=n[0], synonyms=tuple(n[1:])) for n in names))


def test_a_row_is_the_normalised_mean_of_normalised_sentences() -> None:
    text = embed_vocabulary(CountingEncoder(), vocabulary(["cat", "kitty cat"], ["sky"]))
    assert text.row_category.tolist() == [0, 0, 1]
    for row, name in zip(text.rows, ("cat", "kitty cat", "sky"), strict=True):
        sentences = torch.stack([vector(t.format(name)) for t in VILD_TEMPLATES])
        expected = F.normalize(F.normalize(sentences, dim=-1).mean(0), dim=0)
        torch.testing.assert_close(row, expected)


def test_there_are_the_14_published_templates() -> None:
    assert len(set(VILD_TEMPLATES)) == 14
    encoder = CountingEncoder()
    embed_names(encoder, ["cat"])
    assert encoder.calls[0][0] == "a photo of a cat."
    assert encoder.calls[0][-1] == "There is a large cat in the scene."


def test_own_templates_are_used() -> None:
    encoder = CountingEncoder()
    rows = embed_names(encoder, ["cat"], ["just {}"])
    assert encoder.calls == [["just cat"]]
    torch.testing.assert_close(rows[0], F.normalize(vector("just cat"), dim=0))


def test_braces_in_a_name_are_just_characters() -> None:
    encoder = CountingEncoder()
    embed_names(encoder, ["{0} {x}"], ["a {}"])
    assert encoder.calls == [["a {0} {x}"]]


@pytest.mark.parametrize("templates", [[], ["no hole"], ["{} and {}"]])
def test_bad_templates_are_refused(templates: list[str]) -> None:
    with pytest.raises(UserInputError, match="template"):
        embed_names(CountingEncoder(), ["cat"], templates)


def test_a_shared_name_is_encoded_once_and_lands_in_both() -> None:
    encoder = CountingEncoder()
    text = embed_vocabulary(encoder, vocabulary(["cat", "pet"], ["dog", "pet", "dog"]))
    assert sum(len(call) for call in encoder.calls) == 3 * len(VILD_TEMPLATES)
    assert text.row_category.tolist() == [0, 0, 1, 1, 1]
    assert torch.equal(text.rows[1], text.rows[3])
    assert torch.equal(text.rows[2], text.rows[4])


def test_empty_names_are_refused() -> None:
    with pytest.raises(UserInputError, match="empty name"):
        vocabulary(["cat", " "])


def test_many_synonyms_are_batched_and_stay_in_order() -> None:
    """200 categories of 6 names: as few runs of the text tower as its batch allows, rows where they belong."""
    names = [[f"{'long ' * (k % 3)}thing {k} {s}" for s in range(6)] for k in range(200)]
    encoder = CountingEncoder()
    text = embed_vocabulary(encoder, vocabulary(*names))
    total = 200 * 6 * len(VILD_TEMPLATES)
    assert len(encoder.calls) == -(-total // TEXTS_PER_CALL)
    assert max(map(len, encoder.calls)) <= TEXTS_PER_CALL
    assert torch.equal(text.row_category, torch.arange(200).repeat_interleave(6))
    assert text.num_categories == 200
    flat = [name for row in names for name in row]
    torch.testing.assert_close(text.rows[777], embed_names(CountingEncoder(), [flat[777]])[0])
    torch.testing.assert_close(text.rows.norm(dim=-1), torch.ones(1200))


def test_names_of_like_length_share_a_batch() -> None:
    encoder = CountingEncoder()
    embed_names(encoder, ["x" * 50 if i % 2 else "x" for i in range(64)])
    assert all(max(map(len, call)) - min(map(len, call)) < 40 for call in encoder.calls)


@pytest.fixture(scope="module")
def small_clip() -> object:
    config = OpenClipConfig(
        name="small", embed_dim=16, image_size=64, timm_trunk="test_convnext3", text_width=16, text_heads=1,
        text_layers=1,
    )  # fmt: skip
    return build_clip(config, BpeTokenizer())


@pytest.mark.parametrize("name", ["Käsebrötchen", "東京タワー", "кошка", "👩‍🚀", "قطة", "a" * 60])
def test_non_english_names_have_finite_rows(small_clip: CountingEncoder, name: str) -> None:
    rows = embed_vocabulary(small_clip, vocabulary([name], ["sky"])).rows
    assert torch.isfinite(rows).all()
    assert (rows[0] - rows[1]).abs().max() > 1e-3


def test_a_name_longer_than_the_context_is_warned_about_by_name(small_clip: CountingEncoder) -> None:
    with pytest.warns(TruncatedTextWarning, match="very very"):
        rows = embed_vocabulary(small_clip, vocabulary(["very " * 80 + "long cat"], ["sky"])).rows
    assert torch.isfinite(rows).all()


def test_rows_do_not_depend_on_the_company(small_clip: CountingEncoder) -> None:
    alone = embed_names(small_clip, ["cat"])
    together = embed_names(small_clip, ["cat", "a much longer name for a certain kind of cat"])
    torch.testing.assert_close(alone[0], together[0], atol=1e-5, rtol=1e-4)
