"""Filters, uncertainty, statistics, the review page in a browser, the sample that people check, the dry run."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from frozenseg.errors import UserInputError
from frozenseg.types import Segment, SegmentationOutput
from frozenseg.vocabulary import parse_vocabulary
from pipelines.corpus import find_corpus
from pipelines.label import label
from pipelines.labeling.check import agreement, draw_sample
from pipelines.labeling.estimate import estimate, estimate_labels
from pipelines.labeling.filters import Limit, SegmentFilter
from pipelines.labeling.options import LabelOptions
from pipelines.labeling.quality import class_entropy, mask_disagreement, read_quality
from pipelines.segmenter_pool import PoolOptions, SegmenterSource
from shards import Storage
from tests.campaigns.label_kills import make_images
from tests.campaigns.review_sheet import BROWSER, DRIVER, choose, make_sheet, names, open_browser, shown_count

pytestmark = pytest.mark.filterwarnings("ignore::frozenseg.model.RandomWeightsWarning")
HERE = PoolOptions(in_process=True)
TEXT = "cat; dog,puppy; sky(stuff)"
VOCABULARY = parse_vocabulary(TEXT)


@pytest.fixture(scope="module")
def labelled(tiny_source: SegmenterSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images/`, and `labels/` of 7 of them; the eighth is none."""
    folder = tmp_path_factory.mktemp("quality")
    make_images(folder / "images", 7)
    (folder / "images" / "broken.jpg").write_bytes(b"no image")
    options = LabelOptions(
        to=str(folder / "labels"), vocabulary=TEXT, images_per_part=3, max_error_share=0.5, queue_length=4
    )
    label(tiny_source, str(folder / "images"), options, HERE)
    return folder


def result(*segments: tuple[int, float, int]) -> SegmentationOutput:
    """Segments of (category, score, area), one a row."""
    ids = torch.zeros(len(segments), 20, dtype=torch.int32)
    for row, (_, _, area) in enumerate(segments):
        ids[row, :area] = row + 1
    made = (
        Segment(id=i, category_id=c, is_thing=True, score=score, area=area)
        for i, (c, score, area) in enumerate(segments, 1)
    )
    return SegmentationOutput(segment_ids=ids, segments=tuple(made))


def test_filters_by_category() -> None:
    wanted = SegmentFilter.parse("puppy score=0.8; sky area=5 score=0", VOCABULARY, Limit(min_score=0.5, min_area=3))
    given = result((0, 0.6, 4), (0, 0.4, 9), (0, 0.9, 2), (1, 0.7, 9), (1, 0.8, 3), (2, 0.1, 5), (2, 0.9, 4))
    kept = wanted.on_segments(given)
    assert [s.id for s in kept.segments] == [1, 5, 6]
    assert torch.unique(kept.segment_ids).tolist() == [0, 1, 5, 6]
    labels = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2]])
    scores = torch.tensor([[0.6, 0.6, 0.4, 0.9, 0.9, 0.7, 0.9, 0.9]])
    assert wanted.on_pixels(labels, scores).tolist() == [[0, 0, -1, 1, 1, -1, -1, -1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bird score=1", "category of the vocabulary, found 'bird'"),
        ("cat", "NAME score=NUMBER"),
        ("cat score=a", "numbers"),
        ("cat size=3", "NAME"),
    ],
)
def test_filters_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        SegmentFilter.parse(text, VOCABULARY, Limit())


def test_entropy_is_of_what_is_shown() -> None:
    certain = torch.tensor([[1.0, 1e-9, 1e-9, 1e-9]]).log()
    even = torch.full((1, 4), 0.25).log()
    void = torch.tensor([[1e-9, 1e-9, 1e-9, 1.0]]).log()
    mask = torch.ones(1, 2, 2)
    assert class_entropy(certain, mask) == pytest.approx(0, abs=1e-5)
    assert class_entropy(even, mask) == pytest.approx(1)
    both = class_entropy(torch.cat([certain, even, void]), mask.expand(3, 2, 2))
    assert both == pytest.approx(0.75 / 1.75, abs=1e-4)
    assert class_entropy(even, -mask) == 1.0


def test_disagreement_is_what_sam_does_not_repeat() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]).log()
    masks = torch.full((3, 4, 4), -1.0)
    masks[0, :2], masks[1, 2:], masks[2] = 1, 1, 1
    sam = torch.full((1, 4, 4), -1.0)
    sam[0, :2] = 1
    assert mask_disagreement(scores[:1], masks[:1], sam) == pytest.approx(0)
    assert mask_disagreement(scores, masks, sam) == pytest.approx(0.5)
    assert mask_disagreement(scores, masks, sam[:0]) == 1.0
    assert mask_disagreement(scores[2:], masks[2:], sam) == 0.0


def test_statistics_and_queue_are_those_of_the_labels(labelled: Path) -> None:
    storage = Storage(labelled / "labels")
    rows = [row for part in range(3) for row in read_quality(storage, part)]
    assert len(rows) == 7
    assert all(0 <= row["uncertainty"] <= 1 and row["disagreement"] is None for row in rows)
    statistics = json.loads((labelled / "labels" / "statistics.json").read_text())
    assert statistics["num_images"] == 7
    assert statistics["notice"]
    for number, category in enumerate(statistics["categories"]):
        segments = [s for row in rows for s in row["segments"] if s["category"] == number]
        assert category["num_segments"] == len(segments) == sum(category["score_bins"])
        assert category["num_pixels"] == sum(s["area"] for s in segments)
        assert category["num_images"] == sum(any(s["category"] == number for s in row["segments"]) for row in rows)
    panoptic = json.loads((labelled / "labels" / "coco-panoptic" / "panoptic.json").read_text())
    assert sum(len(a["segments_info"]) for a in panoptic["annotations"]) == sum(len(row["segments"]) for row in rows)
    queue = pq.read_table(labelled / "labels" / "review_queue.parquet").to_pylist()
    assert [row["number"] for row in queue] == [
        row["number"] for row in sorted(rows, key=lambda row: (-row["uncertainty"], row["number"]))[:4]
    ]


def test_sam_masks_give_a_disagreement(labelled: Path, tiny_source: SegmenterSource, tmp_path: Path) -> None:
    options = LabelOptions(to=str(tmp_path), vocabulary=TEXT, options={"openseg": True}, formats=("semantic-png",))
    label(tiny_source, str(labelled / "images" / "image000.jpg"), options, HERE)
    [row] = read_quality(Storage(tmp_path), 0)
    assert 0 <= row["disagreement"] <= 1
    assert row["uncertainty"] == pytest.approx((row["entropy"] + row["disagreement"]) / 2, abs=1e-4)


def test_of_more_images_the_sheet_shows_the_least_certain(
    labelled: Path, tiny_source: SegmenterSource, tmp_path: Path
) -> None:
    options = LabelOptions(
        to=str(tmp_path), vocabulary=TEXT, images_per_part=3, max_error_share=0.5, review_images=2, queue_length=1
    )
    label(tiny_source, str(labelled / "images"), options, HERE)
    text = (tmp_path / "review.html").read_text()
    queue = pq.read_table(labelled / "labels" / "review_queue.parquet").to_pylist()
    assert [row["file_name"] in text for row in queue] == [True, True, False, False]
    assert len(pq.read_table(tmp_path / "review_queue.parquet")) == 1


def test_a_sheet_needs_nothing_else(labelled: Path) -> None:
    text = (labelled / "labels" / "review.html").read_text()
    assert "http" not in text
    assert 'src="' not in text


@pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver on PATH")
def test_the_sheet_in_a_browser(tmp_path: Path) -> None:
    sheet = make_sheet(tmp_path / "sheet", 130)
    rows = [row for part in range(3) for row in read_quality(Storage(tmp_path / "sheet"), part)]
    by_doubt = sorted(rows, key=lambda row: (-round(row["uncertainty"], 4), row["number"]))
    with open_browser(tmp_path / "profile") as browser:
        browser.get(sheet.as_uri())
        assert shown_count(browser) == "130 of 130 images"
        assert "RANDOM WEIGHTS" in browser.find_element("id", "notice").text
        assert names(browser) == [row["file_name"] for row in by_doubt[:60]]
        widths = browser.execute_async_script(
            "const done = arguments[0], all = [...document.querySelectorAll('#sheet img')];"
            "Promise.all(all.map(i => i.decode())).then(() => done(all.map(i => i.naturalWidth)))"
        )
        assert widths == [112] * 60
        browser.find_element("id", "next").click()
        browser.find_element("id", "next").click()
        assert names(browser) == [row["file_name"] for row in by_doubt[120:]]
        choose(browser, "category", "1")
        choose(browser, "high", "0.3")
        expected = {
            row["file_name"]
            for row in rows
            if any(s["category"] == 1 and round(1000 * s["score"]) <= 300 for s in row["segments"])
        }
        assert set(names(browser)) == expected
        browser.find_elements("css selector", "#sheet button")[0].click()
        assert browser.find_element("id", "detail").text.count("</script><b>odd & bold</b>") <= 6
        assert len(browser.find_elements("css selector", "#detail-segments tr")) == 6
        assert [
            entry for entry in browser.execute("getLog", {"type": "browser"})["value"] if entry["level"] == "SEVERE"
        ] == []


def test_a_sample_comes_back_and_is_held_against_the_labels(labelled: Path, tmp_path: Path) -> None:
    images = find_corpus(str(labelled / "images"))
    labels = str(labelled / "labels")
    assert draw_sample(labels, images, str(tmp_path / "all"), 100, 0) == 7
    assert draw_sample(labels, images, str(tmp_path / "a"), 4, 1) == 4
    assert draw_sample(labels, images, str(tmp_path / "b"), 4, 1) == 4
    assert (tmp_path / "a" / "panoptic.json").read_bytes() == (tmp_path / "b" / "panoptic.json").read_bytes()
    same = agreement(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (same.num_images, same.num_unchanged, same.pixel_share) == (4, 4, 1.0)
    assert same.quality.value == 1.0
    assert not same.missing
    assert not same.wrong
    # One segment gets another category, and one image does not come back.
    content = json.loads((tmp_path / "b" / "panoptic.json").read_text())
    changed = next(a for a in content["annotations"] if a["segments_info"])
    others = [a for a in content["annotations"] if a is not changed]
    segment = changed["segments_info"][0]
    before = segment["category_id"]
    segment["category_id"] = 1 + before % 3
    content["annotations"] = [changed, *others[:2]]
    kept = {a["image_id"] for a in content["annotations"]}
    content["images"] = [image for image in content["images"] if image["id"] in kept]
    (tmp_path / "b" / "panoptic.json").write_text(json.dumps(content))
    found = agreement(str(tmp_path / "a"), str(tmp_path / "b"))
    pixels = sum(image["height"] * image["width"] for image in content["images"])
    assert (found.num_images, found.num_unchanged) == (3, 2)
    assert found.pixel_share == pytest.approx(1 - segment["area"] / pixels)
    assert found.wrong == {VOCABULARY.categories[before - 1].name: 1}
    assert found.missing == {VOCABULARY.categories[before % 3].name: 1}
    assert "3 images, 2 of them unchanged" in found.text()
    with pytest.raises(UserInputError, match="expected the 8 images"):
        draw_sample(labels, images[:3], str(tmp_path / "c"), 2, 0)
    with pytest.raises(UserInputError, match="finished labels"):
        draw_sample(str(tmp_path), images, str(tmp_path / "c"), 2, 0)


def test_an_estimate_deals_out_whole_parts() -> None:
    found = estimate(1000, 0.36, 4, 100, 2.0, start_seconds=36.0)
    # 10 parts on 4 actors: the busiest has 3.
    assert found.hours == pytest.approx((36 + 300 * 0.36) / 3600)
    assert found.actor_hours == pytest.approx(4 * found.hours)
    assert found.cost == pytest.approx(2 * found.actor_hours)
    assert estimate(10, 1.0, 8, 100, 1.0).num_actors == 1
    assert estimate(10, 1.0, 8, 100, 1.0).hours == pytest.approx(10 / 3600)


def test_a_dry_run_measures_and_writes_nothing(labelled: Path, tiny_source: SegmenterSource, tmp_path: Path) -> None:
    options = LabelOptions(to=str(tmp_path / "out"), vocabulary=TEXT)
    images = find_corpus(str(labelled / "images"))
    found = estimate_labels(tiny_source, images, options, PoolOptions(max_actors=2), 3, 1.5)
    assert (found.num_images, found.num_measured) == (8, 3)
    assert found.seconds_per_image > 0
    assert f"cost {found.cost:.2f}" in found.text()
    assert not (tmp_path / "out").exists()
