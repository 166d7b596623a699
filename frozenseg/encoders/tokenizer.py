"""CLIP's byte-pair tokeniser, whole or cut down to the token rows that a small text tower keeps."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from frozenseg.errors import UserInputError

CONTEXT_LENGTH = 77
_NAMED_IN_WARNING = 3


class TruncatedTextWarning(UserWarning):
    """A text is longer than CLIP's context, so that its end was cut off."""


class Tokenizer(Protocol):
    """Texts to token ids: start, the words, end, then zeros. The end token has the highest id of all."""

    @property
    def context_length(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[N,context_length] int64. A text that is too long is cut, with a TruncatedTextWarning that names it."""
        ...


@lru_cache(maxsize=1)
def _byte_pairs() -> SimpleTokenizer:
    """open_clip's tokeniser, whose merges file ships in its package; building it takes a quarter of a second."""
    return SimpleTokenizer()


class BpeTokenizer:
    """The tokeniser of all OpenAI and LAION CLIP models of the ConvNeXt and ResNet families (49,408 tokens)."""

    def __init__(self, context_length: int = CONTEXT_LENGTH) -> None:
        self.context_length = context_length

    @property
    def vocab_size(self) -> int:
        return int(_byte_pairs().vocab_size)

    @property
    def start_id(self) -> int:
        return int(_byte_pairs().sot_token_id)

    @property
    def end_id(self) -> int:
        return int(_byte_pairs().eot_token_id)

    def word_ids(self, text: str) -> list[int]:
        """Token ids of the text alone, neither start nor end, of any length."""
        ids: list[int] = _byte_pairs().encode(text)
        return ids

    def __call__(self, texts: Sequence[str]) -> Tensor:
        tokens = torch.zeros(len(texts), self.context_length, dtype=torch.int64)
        cut: list[str] = []
        for row, text in zip(tokens, texts, strict=True):
            ids = self.word_ids(text)
            room = self.context_length - 2
            if len(ids) > room:
                cut.append(text)
            sequence = [self.start_id, *ids[:room], self.end_id]
            row[: len(sequence)] = torch.tensor(sequence)
        if cut:
            _warn_truncated(cut, self.context_length)
        return tokens


def _warn_truncated(texts: list[str], context_length: int) -> None:
    named = ", ".join(repr(text) for text in texts[:_NAMED_IN_WARNING])
    more = f" and {len(texts) - _NAMED_IN_WARNING} more" if len(texts) > _NAMED_IN_WARNING else ""
    warnings.warn(
        f"longer than CLIP's context of {context_length} tokens, the end is cut off: {named}{more}",
        TruncatedTextWarning,
        stacklevel=4,
    )


class SubsetTokenizer:
    """The full tokeniser, its ids renumbered for a text tower whose embedding keeps only some token rows.

    The kept ids are renumbered in ascending order, so that the end token stays the highest and padding stays 0.

    Args:
        tokenizer: the full tokeniser.
        known_token_ids: ids that have a row; padding (0), start and end are always among them.
    """

    def __init__(self, tokenizer: BpeTokenizer, known_token_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        kept = {0, tokenizer.start_id, tokenizer.end_id, *known_token_ids}
        outside = sorted(i for i in kept if not 0 <= i < tokenizer.vocab_size)
        if outside:
            raise UserInputError(f"token ids lie in 0..{tokenizer.vocab_size - 1}; found {outside[:5]}")
        self.known_token_ids: tuple[int, ...] = tuple(sorted(kept))
        self._row_of = {token: row for row, token in enumerate(self.known_token_ids)}

    @classmethod
    def for_texts(cls, tokenizer: BpeTokenizer, texts: Iterable[str]) -> SubsetTokenizer:
        """Keeps exactly the tokens that the texts need."""
        return cls(tokenizer, {token for text in texts for token in tokenizer.word_ids(text)})

    @property
    def context_length(self) -> int:
        return self._tokenizer.context_length

    @property
    def vocab_size(self) -> int:
        return len(self.known_token_ids)

    def unknown_words(self, text: str) -> list[str]:
        """The words of the text that need a token without a row, in order; empty when the text can be embedded."""
        # Named without a template's full stop, which is no part of the user's word.
        missing = [
            w.strip(".,!?") or w
            for w in text.split()
            if any(i not in self._row_of for i in self._tokenizer.word_ids(w))
        ]
        if missing or all(i in self._row_of for i in self._tokenizer.word_ids(text)):
            return missing
        return [text]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[N,context_length] int64 row numbers.

        Raises:
            UserInputError: words whose tokens have no row, named.
        """
        unknown = list(dict.fromkeys(word for text in texts for word in self.unknown_words(text)))
        if unknown:
            raise UserInputError(
                f"this model's small text tower knows only the words it was made with; it doesn't know: "
                f"{', '.join(map(repr, unknown[:10]))}"
            )
        full = self._tokenizer(texts)
        rows = torch.tensor(self.known_token_ids, dtype=torch.int64)
        return torch.searchsorted(rows, full)
