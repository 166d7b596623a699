"""Tokenisers: CLIP's own, and its subset."""

from __future__ import annotations

import warnings

import open_clip
import pytest
import torch

from frozenseg.encoders import BpeTokenizer, SubsetTokenizer, TruncatedTextWarning
from frozenseg.errors import UserInputError
from tests.encoders.conftest import CONVNEXT, make_clip

TEXTS = [
    "a photo of a cat.",
    "",
    "Ein Käsebrötchen",
    "東京タワー",
    "кошка, собака",
    "👩‍🚀 astronaut",
    "naïve café &amp; tea",
    "ﬁ\u200bx",
]


def test_it_gives_open_clips_tokens() -> None:
    expected = open_clip.get_tokenizer("convnext_large_d_320")(TEXTS)
    assert torch.equal(BpeTokenizer()(TEXTS), expected)


def test_non_english_names_are_whole() -> None:
    tokenizer = BpeTokenizer()
    ids = {text: tokenizer.word_ids(text) for text in TEXTS if text}
    assert all(ids.values())
    assert len({tuple(i) for i in ids.values()}) == len(ids)


def test_long_texts_are_cut_with_a_warning_that_names_them() -> None:
    tokenizer = BpeTokenizer()
    fits, long = "cat " * 75, "dog " * 76
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer([fits])
    with pytest.warns(TruncatedTextWarning, match=r"context of 77 tokens.*dog dog") as caught:
        tokens = tokenizer([fits, long])
    assert "cat" not in str(caught[0].message)
    assert tokens[1, -1] == tokenizer.end_id
    assert (tokens[1, 1:-1] == tokenizer.word_ids("dog")[0]).all()
    assert torch.equal(tokens, open_clip.get_tokenizer("RN50")([fits, long]))


def test_many_long_texts_make_one_warning() -> None:
    with pytest.warns(TruncatedTextWarning, match="and 2 more") as caught:
        BpeTokenizer()([f"{i} " * 90 for i in range(5)])
    assert len(caught) == 1


def test_a_subset_gives_the_full_towers_embedding() -> None:
    """A text tower with only the kept rows of the full one computes the same text."""
    import dataclasses

    from frozenseg.encoders import build_clip

    texts = ["a photo of a red circle", "red", "blue circle of a photo"]
    full = build_clip(dataclasses.replace(CONVNEXT, text_layers=1))
    subset = SubsetTokenizer.for_texts(BpeTokenizer(), texts)
    small = build_clip(dataclasses.replace(CONVNEXT, text_layers=1, vocab_size=subset.vocab_size), subset)
    state = full.model.state_dict()
    state["token_embedding.weight"] = state["token_embedding.weight"][list(subset.known_token_ids)]
    small.model.load_state_dict(state)
    torch.testing.assert_close(small.encode_text(texts), full.encode_text(texts))


def test_a_subset_keeps_order_start_end_and_padding() -> None:
    tokenizer = BpeTokenizer()
    subset = SubsetTokenizer(tokenizer, [500, 320])
    assert subset.known_token_ids == (0, 320, 500, tokenizer.start_id, tokenizer.end_id)
    assert (subset.vocab_size, subset.context_length) == (5, 77)
    assert subset(["a"])[0, :4].tolist() == [3, 1, 4, 0]


def test_unknown_words_are_named() -> None:
    subset = SubsetTokenizer.for_texts(BpeTokenizer(), ["a photo of a red circle."])
    assert subset.unknown_words("a red circle") == []
    with pytest.raises(UserInputError, match=r"doesn't know: 'zebra', 'Käse'"):
        subset(["a photo of a zebra", "red Käse circle", "zebra"])


def test_an_encoder_with_a_subset_refuses_unknown_words() -> None:
    with pytest.raises(UserInputError, match="'zebra'"):
        make_clip(CONVNEXT).encode_text(["a zebra"])


def test_token_ids_out_of_range_are_refused() -> None:
    with pytest.raises(UserInputError, match=r"0\.\.49407; found \[-1, 49408\]"):
        SubsetTokenizer(BpeTokenizer(), [-1, 49408, 5])
