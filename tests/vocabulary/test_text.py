"""The text form of a vocabulary."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frozenseg.errors import UserInputError
from frozenseg.types import Category, Vocabulary
from frozenseg.vocabulary import format_vocabulary, parse_vocabulary


def test_the_documented_example() -> None:
    vocabulary = parse_vocabulary("cat; dog,puppy; sky(stuff)")
    assert vocabulary.categories == (
        Category(name="cat"),
        Category(name="dog", synonyms=("puppy",)),
        Category(name="sky", is_thing=False),
    )


@pytest.mark.parametrize(
    ("text", "names", "things"),
    [
        ("cat", [("cat",)], [True]),
        (" a  red   cat ;;dog; ", [("a red cat",), ("dog",)], [True, True]),
        ("sky (Stuff), heaven", [("sky", "heaven")], [False]),
        ("sky, heaven ( stuff )", [("sky", "heaven")], [False]),
        ("cat(thing);sea(stuff)", [("cat",), ("sea",)], [True, False]),
        ("cat, cat, kitten", [("cat", "kitten")], [True]),
        ("traffic sign (front)", [("traffic sign (front)",)], [True]),
        ("猫; chien(stuff)", [("猫",), ("chien",)], [True, False]),
        (
            "cat\ndog, puppy # my dog\n# a comment\nsky(stuff)",
            [("cat",), ("dog", "puppy"), ("sky",)],
            [True, True, False],
        ),
    ],
)
def test_reading(text: str, names: list[tuple[str, ...]], things: list[bool]) -> None:
    vocabulary = parse_vocabulary(text)
    assert [c.names for c in vocabulary.categories] == names
    assert vocabulary.is_thing.tolist() == things


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty"),
        (" ; ;", "empty"),
        ("cat;dog,,puppy", "empty name"),
        ("cat;(stuff)", "empty name"),
        ("cat;dog;cat", "'cat' twice"),
        ("sky(stuff),heaven(thing)", "both"),
    ],
)
def test_what_is_refused(text: str, part: str) -> None:
    with pytest.raises(UserInputError, match=part):
        parse_vocabulary(text)


_names = st.text("abc xyzé猫-", min_size=1, max_size=8).map(lambda t: " ".join(t.split())).filter(bool)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.lists(_names, min_size=1, max_size=3, unique=True), st.booleans()), min_size=1, max_size=5)
)
def test_writing_and_reading_are_inverse(entries: list[tuple[list[str], bool]]) -> None:
    firsts = {names[0]: (names, thing) for names, thing in entries}
    vocabulary = Vocabulary(
        categories=tuple(Category(name=n[0], synonyms=tuple(n[1:]), is_thing=thing) for n, thing in firsts.values())
    )
    assert parse_vocabulary(format_vocabulary(vocabulary)).categories == vocabulary.categories
