"""Names in any script: Pillow's own font where it suffices, another one where it doesn't, a warning where none does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
from PIL import ImageFont

from frozenseg.inference import fonts

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    fonts._font_path.cache_clear()
    yield
    fonts._font_path.cache_clear()


def test_plain_names_keep_the_font_that_is_always_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "system_fonts", lambda: pytest.fail("no need to look for fonts"))
    font = fonts.font_for(["red button  3 %", "grass"], 16)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert font.getname() == ImageFont.load_default(size=16).getname()  # type: ignore[union-attr]
    assert font.size == 16


def test_another_script_finds_a_font_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    monkeypatch.setattr(fonts, "system_fonts", lambda: [broken, DEJAVU])
    font = fonts.font_for(["кошка", "dog"], 20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert font.getname()[0] == "DejaVu Sans"
    assert font.size == 20


def test_a_named_font_is_tried_before_those_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "system_fonts", list)
    monkeypatch.setenv(fonts.FONT_VARIABLE, str(DEJAVU))
    font = fonts.font_for(["кошка"], 12)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert font.getname()[0] == "DejaVu Sans"


def test_characters_that_no_font_has_are_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "system_fonts", lambda: [DEJAVU])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            fonts.font_for(["кошка 猫"], 12)
    assert [record.getMessage().count("猫") for record in caplog.records] == [1]
    assert "кошка" not in caplog.text
