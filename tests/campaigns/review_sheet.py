"""Makes a contact sheet of many invented images and drives it in a headless browser.

python -m tests.campaigns.review_sheet --images 100000

Prints the sheet's size and the seconds until it opened, turned a page, and answered a filter.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from frozenseg.inference.palette import category_colors
from frozenseg.types import Segment, SegmentationOutput, Vocabulary
from frozenseg.vocabulary import parse_vocabulary
from pipelines.labeling.labelled import ImageQuality, LabelledImage, PackedMap
from pipelines.labeling.quality import write_quality
from pipelines.labeling.review import REVIEW_NAME, write_review
from pipelines.labeling.thumbnails import thumbnail
from shards import Storage

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
VOCABULARY = parse_vocabulary("cat; dog,puppy; sky(stuff); </script><b>odd & bold</b>")
PART = 64
NUM_PICTURES = 20


def make_sheet(folder: Path, count: int, vocabulary: Vocabulary = VOCABULARY) -> Path:
    """A sheet of `count` images, none of which was ever segmented."""
    dice = np.random.default_rng(0)
    colors = category_colors(vocabulary)
    pictures = [_picture(dice, colors) for _ in range(NUM_PICTURES)]
    storage = Storage(folder)
    for part, start in enumerate(range(0, count, PART)):
        images = [_image(dice, number, pictures) for number in range(start, min(start + PART, count))]
        write_quality(storage, part, images)
    write_review(
        storage,
        range(-(-count // PART)),
        vocabulary,
        frozenset(range(1, count + 1)),
        "RANDOM WEIGHTS: none of this means anything",
    )
    return folder / REVIEW_NAME


def _picture(dice: np.random.Generator, colors: list[tuple[int, int, int]]) -> bytes:
    noise = dice.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC))
    ids = np.zeros((240, 320), dtype=np.int32)
    ids[120:] = 1
    ids[40:160, 100:220] = 2
    segments = tuple(Segment(id=i, category_id=i, is_thing=True, score=0.5, area=1) for i in (1, 2))
    result = SegmentationOutput(segment_ids=torch.from_numpy(ids), segments=segments)
    return thumbnail(torch.from_numpy(picture.copy()).permute(2, 0, 1), result, colors)


def _image(dice: np.random.Generator, number: int, pictures: list[bytes]) -> LabelledImage:
    segments = tuple(
        Segment(id=i, category_id=int(c), is_thing=True, score=float(s), area=int(a))
        for i, (c, s, a) in enumerate(
            zip(dice.integers(0, 4, 6), dice.random(6), dice.integers(1, 10**5, 6), strict=True), 1
        )
    )
    return LabelledImage(
        number=number + 1,
        image_id=f"image{number:07d}",
        file_name=f"holiday/{number:07d} </script>.jpg",
        address="",
        image_bytes=b"",
        size=(240, 320),
        segment_ids=PackedMap.of(np.zeros((1, 1), dtype=np.int32)),
        segments=segments,
        quality=ImageQuality(entropy=float(dice.random()), disagreement=None, num_dropped=0),
        thumbnail=pictures[number % NUM_PICTURES],
    )


@contextmanager
def open_browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """Headless, without anything it would do over the network by itself."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--window-size=1280,900", f"--user-data-dir={profile}"),
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def shown_count(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.ID, "count").text


def choose(browser: webdriver.Chrome, field: str, value: str) -> None:
    """Sets a filter as a hand would, and waits for the answer."""
    before = shown_count(browser)
    browser.execute_script(
        "const f = document.getElementById(arguments[0]); f.value = arguments[1];"
        "f.dispatchEvent(new Event('input', {bubbles: true}))",
        field,
        value,
    )
    WebDriverWait(browser, 60, poll_frequency=0.02).until(lambda _: shown_count(browser) != before)


def names(browser: webdriver.Chrome) -> list[str]:
    """File names on the page."""
    script = "return [...document.querySelectorAll('#sheet button')].map(b => b.children[1].textContent)"
    found: list[str] = browser.execute_script(script)
    return found


def run(count: int, work: Path, screenshot: Path | None = None) -> dict[str, float]:
    """Seconds of each thing that a person does."""
    sheet = make_sheet(work, count)
    with open_browser(work / "profile") as browser:
        browser.set_page_load_timeout(280)
        browser.set_script_timeout(280)
        seconds = {"megabytes": sheet.stat().st_size / 1e6}
        start = time.perf_counter()
        browser.get(sheet.as_uri())
        WebDriverWait(browser, 280).until(lambda _: shown_count(browser).startswith(f"{count} of"))
        seconds["open"] = time.perf_counter() - start
        actions: dict[str, Callable[[], None]] = {
            "next page": browser.find_element(By.ID, "next").click,
            "filter by category": lambda: choose(browser, "category", "1"),
            "filter by score": lambda: choose(browser, "high", "0.1"),
            "filter by name": lambda: choose(browser, "name", "99"),
        }
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            seconds[name] = time.perf_counter() - start
            if screenshot is not None and name == "filter by category":
                browser.save_screenshot(str(screenshot))
        seconds["script memory, MB"] = browser.execute_script("return performance.memory.usedJSHeapSize") / 1e6
    return {name: round(value, 3) for name, value in seconds.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--screenshot", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(run(arguments.images, Path(work), arguments.screenshot)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
