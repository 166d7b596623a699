"""The page in a real headless browser: by mouse, by keyboard and at a phone's width."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from serve.settings import settings_from
from tests.serve.conftest import ARGUMENTS, Server, free_port
from tests.serve.in_process import serve_in_process

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
WAIT_S = 120
# What the browser would otherwise do over the network by itself.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SCREENSHOTS = os.environ.get("FROZENSEG_SCREENSHOTS", "")
"""A folder to look at what the tests saw."""

pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver on PATH; there are none"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    profile = tmp_path_factory.mktemp("browser")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, server: Server) -> webdriver.Chrome:
    """The page, fresh, with its example buttons there."""
    resize(browser, 1280, 900)
    browser.get(server.address)
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#examples button"))
    return browser


def resize(browser: webdriver.Chrome, width: int, height: int) -> None:
    """The viewport's own size; a window has a smallest width, a phone does not care."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )


def wait(browser: webdriver.Chrome, condition: Callable[[], object]) -> None:
    WebDriverWait(browser, WAIT_S, poll_frequency=0.1).until(lambda _: condition())


def status(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.ID, "status").text


def pixels(browser: webdriver.Chrome) -> str:
    return str(browser.execute_script("return document.getElementById('canvas').toDataURL()"))


def click_example(browser: webdriver.Chrome) -> None:
    browser.find_elements(By.CSS_SELECTOR, "#examples button")[0].click()
    wait(browser, lambda: " in " in status(browser))


def keep_picture(browser: webdriver.Chrome, name: str) -> None:
    if SCREENSHOTS:
        size = browser.execute_script("return [document.documentElement.scrollWidth, document.body.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        (Path(SCREENSHOTS) / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


def assert_no_errors(browser: webdriver.Chrome) -> None:
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
    assert [e for e in severe if "favicon" not in e["message"]] == []


def test_an_example_is_segmented_toggled_and_asked_again(page: webdriver.Chrome) -> None:
    keep_picture(page, "desktop-empty")
    click_example(page)
    boxes = page.find_elements(By.CSS_SELECTOR, "#segments input")
    assert len(boxes) == int(status(page).split()[0]) > 0
    keep_picture(page, "desktop-panoptic")

    whole = pixels(page)
    boxes[0].click()
    assert not boxes[0].is_selected()
    page.execute_script("document.activeElement.blur()")
    without = pixels(page)
    assert without != whole
    page.find_element(By.ID, "none").click()
    assert not any(box.is_selected() for box in boxes)
    bare = pixels(page)
    assert bare not in (whole, without)
    page.find_element(By.ID, "all").click()
    assert pixels(page) == whole

    page.execute_script("document.getElementById('status').textContent = ''")
    page.find_element(By.CSS_SELECTOR, "input[value=semantic]").click()
    page.find_element(By.ID, "go").click()
    wait(page, lambda: " in " in status(page))
    names = [e.text for e in page.find_elements(By.CSS_SELECTOR, "#segments .chip + span")]
    assert len(set(names)) == len(names) > 0, "a semantic result has each category once"
    keep_picture(page, "desktop-semantic")
    assert_no_errors(page)


def test_a_word_that_the_model_does_not_know_is_named(page: webdriver.Chrome) -> None:
    click_example(page)
    names = page.find_element(By.ID, "vocabulary")
    names.clear()
    names.send_keys("grass; zebra")
    page.find_element(By.ID, "go").click()
    wait(page, lambda: "zebra" in status(page))
    assert "bad" in str(page.find_element(By.ID, "status").get_attribute("class"))
    assert page.find_element(By.ID, "go").is_enabled()
    keep_picture(page, "desktop-problem")


def test_a_phone_needs_no_sideways_scrolling(page: webdriver.Chrome) -> None:
    resize(page, 390, 844)
    click_example(page)
    widths = page.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1] == 390
    for control in page.find_elements(By.CSS_SELECTOR, "button, .pick, #segments label"):
        if control.is_displayed():
            assert control.rect["height"] >= 36, control.text
    keep_picture(page, "phone")


def test_everything_can_be_done_by_keyboard(page: webdriver.Chrome) -> None:
    """Tab reaches the example, Enter takes it, Ctrl + Enter in the names asks again, Space toggles a segment."""
    for _ in range(5):
        ActionChains(page).send_keys(Keys.TAB).perform()
        if page.switch_to.active_element.text == "example 1":
            break
    assert page.switch_to.active_element.text == "example 1"
    ActionChains(page).send_keys(Keys.ENTER).perform()
    wait(page, lambda: " in " in status(page))
    before = len(page.find_elements(By.CSS_SELECTOR, "#segments li"))

    page.execute_script("document.getElementById('status').textContent = ''")
    names = page.find_element(By.ID, "vocabulary")
    names.clear()
    names.send_keys("sky(stuff)")
    names.send_keys(Keys.CONTROL, Keys.ENTER)
    wait(page, lambda: " in " in status(page))
    after = [e.text for e in page.find_elements(By.CSS_SELECTOR, "#segments .chip + span")]
    assert before > 1
    assert set(after) <= {"sky"}

    if after:
        box = page.find_element(By.CSS_SELECTOR, "#segments input")
        box.send_keys(Keys.SPACE)
        assert not box.is_selected()


def test_a_server_with_a_token_asks_for_it(browser: webdriver.Chrome) -> None:
    port = free_port()
    with serve_in_process(settings_from({**ARGUMENTS, "token": "open sesame"}), port):
        resize(browser, 390, 844)
        browser.get(f"http://127.0.0.1:{port}")
        field = browser.find_element(By.ID, "token")
        wait(browser, field.is_displayed)
        assert browser.switch_to.active_element == field
        keep_picture(browser, "phone-token")
        field.send_keys("open barley", Keys.TAB)
        wait(browser, lambda: "bearer token" in status(browser))
        assert not browser.find_elements(By.CSS_SELECTOR, "#examples button")

        field.clear()
        field.send_keys("open sesame", Keys.ENTER)
        wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#examples button"))
        click_example(browser)
        assert browser.find_elements(By.CSS_SELECTOR, "#segments li")
        browser.refresh()
        wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#examples button"))
        assert not browser.find_element(By.ID, "token").is_displayed(), "it is kept for this tab"
