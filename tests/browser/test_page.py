"""Headless Chromium calls with a wav as its microphone; the test hears the answer and sees the mouth move."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, sync_playwright

from tests.conftest import DATA
from tests.listening import share_heard
from tests.system import running_system
from visavis.audio import read_wav, resample, write_wav

pytestmark = [pytest.mark.browser, pytest.mark.weights, pytest.mark.timeout(600)]

SECONDS_BEFORE_QUESTION = 9  # the greeting has ended by then
# Keeps what the loudspeaker plays and how the mouth looks, both on the page's clock.
RECORDER = """
(() => {
  const heard = { rate: 0, blocks: [] }, seen = [];
  const connect = AudioNode.prototype.connect;
  AudioNode.prototype.connect = function (target, ...rest) {
    if (target instanceof AudioDestinationNode && !this.__tap) {
      const tap = (this.__tap = this.context.createScriptProcessor(2048, 1, 1));
      heard.rate = this.context.sampleRate;
      tap.onaudioprocess = (event) =>
        heard.blocks.push([performance.now(), Array.from(event.inputBuffer.getChannelData(0))]);
      connect.call(this, tap);
      connect.call(tap, target);
    }
    return connect.call(this, target, ...rest);
  };
  const eye = new OffscreenCanvas(32, 24).getContext('2d', { willReadFrequently: true });
  const look = () => {
    const face = document.querySelector('canvas');
    if (face && face.width && window.__visavis?.playout === 'playing') {
      const { width: w, height: h } = face;
      eye.drawImage(face, w * 0.38, h * 0.52, w * 0.24, h * 0.2, 0, 0, 32, 24);
      const pixels = eye.getImageData(0, 0, 32, 24).data, grey = [];
      for (let i = 0; i < pixels.length; i += 4) grey.push((pixels[i] + pixels[i + 1] + pixels[i + 2]) / 3);
      seen.push([performance.now(), grey]);
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
  window.__recorded = { heard, seen };
})();
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_system(tmp_path_factory.mktemp("system") / "run.log") as url:
        yield url


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A page whose microphone hears silence, then the question, then silence."""
    samples, rate_hz = read_wav(DATA / "capital-of-france.wav")
    silence = np.zeros(SECONDS_BEFORE_QUESTION * 48_000, np.float32)
    question = resample(samples, rate_hz, 48_000)
    wav = tmp_path / "microphone.wav"
    write_wav(wav, np.concatenate([silence, question, np.zeros(30 * 48_000, np.float32)]), 48_000)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,  # none: Playwright's own
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={wav}%noloop",
            ],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.add_init_script(RECORDER)
        yield page
        browser.close()


def wait_until(page: Page, condition: str, timeout_s: float = 60) -> None:
    page.wait_for_function(condition, timeout=timeout_s * 1000)


def keep_screenshot(page: Page, name: str) -> None:
    folder = os.environ.get("VISAVIS_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def test_a_call_from_the_page_is_heard_and_seen(page: Page, url: str):
    """Ask by voice: the answer's sound holds the answer's words, and the mouth moves with it."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(url)
    assert "AI" in page.inner_text("body")
    keep_screenshot(page, "lobby")
    page.get_by_role("button", name="Start the call").click()
    wait_until(
        page, "() => window.__visavis.captions.lines.some((line) => line.startsWith('user:'))"
    )
    wait_until(page, "() => window.__visavis.playout === 'playing'")
    time.sleep(1)
    keep_screenshot(page, "call")
    lines = "() => window.__visavis.captions.lines"
    wait_until(page, f"() => ({lines})().at(-1)?.startsWith('agent:') && ({lines})().length >= 3")
    recorded = page.evaluate("() => window.__recorded")
    measured = page.evaluate("() => ({...window.__visavis})")
    page.get_by_role("button", name="Hang up").click()
    wait_until(page, "() => window.__visavis.state === 'ended'")
    keep_screenshot(page, "ended")

    assert not problems
    question, answer = measured["captions"]["lines"][-2:]
    assert "france" in question.lower()
    times, sound = heard(recorded)
    assert share_heard(answer.removeprefix("agent:"), sound, recorded["heard"]["rate"]) >= 0.6
    assert measured["drawnFrames"] > 25
    together = mouth_follows_sound(recorded, times, sound)
    assert together > 0.3
    assert (
        together > mouth_follows_sound(recorded, times + 1_500, sound) + 0.15
    )  # another moment's sound


def heard(recorded: dict) -> tuple[np.ndarray, np.ndarray]:
    """The time of each sample, on the page's clock, and the samples."""
    rate = recorded["heard"]["rate"]
    blocks = recorded["heard"]["blocks"]
    sound = np.concatenate([np.array(samples, np.float32) for _, samples in blocks])
    # A block is handed over when the next one is being filled: one block's length late.
    times = np.concatenate(
        [at - 1000 * (2 * len(block) - np.arange(len(block))) / rate for at, block in blocks]
    )
    return times, sound


def mouth_follows_sound(recorded: dict, times: np.ndarray, sound: np.ndarray) -> float:
    """Correlation of loudness with how far the mouth is open, at the best lag within 120 ms.

    An open mouth is dark between light lips: its picture has more contrast.
    """
    seen_at = np.array([at for at, _ in recorded["seen"]])
    opening = np.array([grey for _, grey in recorded["seen"]]).std(axis=1)
    grid = np.arange(seen_at[0], seen_at[-1], 40)
    opening = np.interp(grid, seen_at, opening)

    def loudness(lag_ms: float) -> np.ndarray:
        return np.array(
            [
                np.sqrt(np.mean(np.square(part))) if len(part) else 0.0
                for at in grid
                for part in [
                    sound[slice(*np.searchsorted(times, [at + lag_ms - 60, at + lag_ms + 60]))]
                ]
            ]
        )

    return max(float(np.corrcoef(opening, loudness(lag))[0, 1]) for lag in range(-120, 121, 40))


def test_typing_works_without_a_microphone(page: Page, url: str):
    page.goto(url)
    page.get_by_role("button", name="Call without a microphone").click()
    agent_lines = "window.__visavis.captions.lines.filter((l) => l.startsWith('agent:')).length"
    wait_until(page, f"() => {agent_lines} >= 1")  # the greeting has been heard
    page.get_by_placeholder("Type to").fill("Hello, who are you?")
    page.keyboard.press("Enter")
    wait_until(page, f"() => {agent_lines} >= 2")


def test_an_unknown_address_and_the_status_page(page: Page, url: str):
    page.goto(f"{url}/status")
    page.wait_for_selector("text=talkinghead")
    keep_screenshot(page, "status")
    assert page.goto(f"{url}/v1/personas/nobody").status == 404
