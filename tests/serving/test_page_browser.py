"""The page in a real browser: a panorama is dropped, looked around in and asked about, and errors are readable."""

from __future__ import annotations

import base64
import importlib.util
import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from page_host import KEY, PageHost, hosting
from PIL import Image

from cora.geometry.camera import rays_at
from cora.geometry.sphere import direction_to_lonlat, lonlat_to_pixel
from cora.types import ViewSpec

# Of 255: what rounding and the steps of the picture may add to a colour.
TOLERANCE = 5


def gradient() -> Image.Image:
    """A panorama whose red grows with the column, green with the row."""
    rows, columns = np.mgrid[0:256, 0:512]
    return Image.fromarray(np.stack([columns // 2, rows, np.full_like(rows, 128)], axis=-1).astype(np.uint8))


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def host() -> Iterator[PageHost]:
    with hosting() as running:
        yield running


@pytest.fixture
def page(browser: Any, host: PageHost) -> Iterator[Any]:
    """The opened page; an error of its script or a request to elsewhere fails the test."""
    host.reset()
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=host.url)
    page = context.new_page()
    page.set_default_timeout(20_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    local = (host.url, "data:", "blob:")
    page.on("request", lambda request: request.url.startswith(local) or problems.append(request.url))
    # Statuses of refusals are on the console too; a breach of the content security policy must not be.
    page.on("console", lambda message: "Content Security" in message.text and problems.append(message.text))
    page.goto(host.url)
    yield page
    context.close()
    assert problems == []


def drop(page: Any, content: bytes, name: str = "pano.png", kind: str = "image/png") -> None:
    """Let a file go over the page."""
    data = base64.b64encode(content).decode()
    transfer = page.evaluate_handle(
        """([data, name, type]) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name, { type }));
          return transfer;
        }""",
        [data, name, kind],
    )
    page.dispatch_event("#scene", "dragover", {"dataTransfer": transfer})
    assert page.is_visible("#dropzone")
    page.dispatch_event("#scene", "drop", {"dataTransfer": transfer})
    assert not page.is_visible("#dropzone")


def open_panorama(page: Any) -> None:
    page.wait_for_selector("#dot.well")
    drop(page, png(gradient()))
    page.wait_for_selector("#canvas[data-shown='pano.png']")


def wait_for_text(page: Any, selector: str, text: str) -> None:
    # The policy of the page lets no wait_for_function in.
    page.locator(selector, has_text=text).first.wait_for()


def ask(page: Any, question: str) -> None:
    page.fill("#question", question)
    page.press("#question", "Enter")


def colours(page: Any, points: list[tuple[float, float]]) -> list[list[int]]:
    """Return (red, green, blue) of the canvas at points in fractions of its size."""
    return list(
        page.evaluate(
            """(points) => {
              const canvas = document.getElementById("canvas");
              const {width, height} = canvas;
              const copy = Object.assign(document.createElement("canvas"), {width, height});
              const context = copy.getContext("2d", {willReadFrequently: true});
              context.drawImage(canvas, 0, 0);
              return points.map(([x, y]) =>
                [...context.getImageData(Math.floor(x * width), Math.floor(y * height), 1, 1).data].slice(0, 3));
            }""",
            points,
        )
    )


def expected_colours(
    page: Any, yaw: float, pitch: float, points: list[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Return (red, green) that the geometry says are at points of a canvas that looks somewhere, 90° wide."""
    size = page.evaluate("[document.getElementById('canvas').width, document.getElementById('canvas').height]")
    fovs = [math.degrees(2 * math.atan(side / max(size))) for side in size]
    x, y = (torch.tensor([point[axis] for point in points], dtype=torch.float64) for axis in (0, 1))
    rays = rays_at(ViewSpec(0, "perspective", yaw, pitch, *fovs), x, y, 1, 1)
    column, row = lonlat_to_pixel(*direction_to_lonlat(rays), 1, 1)
    return [(255 * u, 255 * v) for u, v in zip(column.tolist(), row.tolist(), strict=True)]


def test_a_dropped_panorama_is_drawn_where_the_geometry_says(page: Any) -> None:
    open_panorama(page)
    page.uncheck("#outlines")
    points = [(0.5, 0.5), (0.1, 0.2), (0.9, 0.8)]
    for keys, yaw, pitch in (("", 0, 0), ("RRRRUUU", 30, 22.5), ("LLLLLLLLLLLLLLLLLLLLDDDDD", -150, -37.5)):
        page.locator("#canvas").press("0")
        for key in keys:
            page.locator("#canvas").press({"R": "ArrowRight", "L": "ArrowLeft", "U": "ArrowUp", "D": "ArrowDown"}[key])
        assert f"yaw {yaw}°" in page.text_content("#direction")
        for found, (red, green) in zip(colours(page, points), expected_colours(page, yaw, pitch, points), strict=True):
            assert abs(found[0] - red) < TOLERANCE
            assert abs(found[1] - green) < TOLERANCE


def test_the_views_of_the_model_are_outlined_and_looked_at(page: Any, host: PageHost) -> None:
    open_panorama(page)
    views = host.app.state.image_processor.views
    buttons = page.locator("#views button")
    assert buttons.count() == len(views)
    view = next(each for each in views if each.yaw_deg == 90)
    buttons.nth(view.index).click()
    assert f"yaw 90° pitch {view.pitch_deg:.0f}°" in page.text_content("#direction")
    # Along the middle row, the view's own left and right border are lines, and gone when they are not wanted.
    width, height = page.evaluate("[document.getElementById('canvas').width, document.getElementById('canvas').height]")
    larger = 1.12 * max(view.hfov_deg, view.vfov_deg)
    half = (
        math.tan(math.radians(view.hfov_deg / 2)) / math.tan(math.radians(larger / 2)) * max(width, height) / width / 2
    )
    points = [(0.5 - half, 0.47), (0.5 + half, 0.47)]
    for red, green, blue in colours(page, points):
        assert abs(blue - 128) > 40 or abs(red - green) > 120
    page.uncheck("#outlines")
    assert all(abs(blue - 128) < TOLERANCE for _, _, blue in colours(page, points))


def test_questions_are_answered_in_a_conversation(page: Any, host: PageHost) -> None:
    open_panorama(page)
    ask(page, "What is <i>ahead</i>?")
    page.wait_for_selector(".assistant:not(.waiting)")
    assert page.locator(".assistant").text_content() == "A red cone <b>here</b>."
    assert page.locator(".user").text_content() == "What is <i>ahead</i>?"
    ask(page, "And behind?")
    page.locator(".assistant:not(.waiting)").nth(1).wait_for()
    first, second = host.bodies
    picture = first["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(picture.partition(",")[2]) == png(gradient())
    assert first["model"] == "quick <model>"
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][:1] == first["messages"]
    page.click("#clear")
    assert page.locator("#turns li").count() == 0


def test_an_answer_is_shown_as_it_comes_and_can_be_stopped(page: Any, host: PageHost) -> None:
    open_panorama(page)
    host.is_slow = True
    ask(page, "What?")
    wait_for_text(page, ".assistant", "A red cone <b>here</b>.")
    assert page.locator(".assistant.waiting").count() == 1
    assert page.is_disabled("#send")
    page.click("#stop")
    page.wait_for_selector(".assistant:not(.waiting)")
    assert page.is_enabled("#send")
    assert not page.is_visible("#problem")


def test_a_refusal_is_said_and_the_question_kept(page: Any, host: PageHost) -> None:
    open_panorama(page)
    host.refuses = (400, "image: 512 x 511 pixels are no panorama")
    ask(page, "What?")
    page.wait_for_selector("#problem:visible")
    assert page.text_content("#problem") == "Image: 512 x 511 pixels are no panorama"
    assert page.input_value("#question") == "What?"
    assert page.locator("#turns li").count() == 0
    host.refuses = None
    page.press("#question", "Enter")
    page.wait_for_selector(".assistant:not(.waiting)")
    assert not page.is_visible("#problem")


def test_the_key_is_asked_for_and_kept_in_the_tab(page: Any, host: PageHost) -> None:
    host.needs_key = True
    page.reload()
    page.wait_for_selector("#key:focus")
    assert "API key" in page.text_content("#problem")
    page.fill("#key", KEY)
    page.press("#key", "Enter")
    page.wait_for_selector("#dot.well")
    assert not page.is_visible("#key-form")
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    page.click("#copy-curl")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert f"curl '{host.url}/v1/chat/completions'" in copied
    assert KEY not in copied


def test_what_cannot_be_sent_is_said_or_made_smaller(page: Any, host: PageHost) -> None:
    page.wait_for_selector("#dot.well")
    drop(page, b"words", name="words.txt", kind="text/plain")
    wait_for_text(page, "#hint", "words.txt is no JPEG, PNG or WebP picture.")
    drop(page, b"no picture", name="torn.png")
    wait_for_text(page, "#hint", "torn.png cannot be opened")
    noise = np.random.default_rng(0).integers(0, 255, (300, 2400 * 2, 3), dtype=np.uint8)
    large = Image.fromarray(np.repeat(noise, 8, axis=0))
    host.app.state.limits.max_body_bytes = 2 * 2**20
    page.reload()
    page.wait_for_selector("#dot.well")
    drop(page, png(large.resize((3000, 1500))), name="large.png")
    page.wait_for_selector("#canvas[data-shown='large.png']")
    assert "a copy of 2048 × 1024 pixels" in page.text_content("#hint")
    ask(page, "What?")
    page.wait_for_selector(".assistant:not(.waiting)")
    sent = host.bodies[-1]["messages"][0]["content"][0]["image_url"]["url"]
    assert Image.open(io.BytesIO(base64.b64decode(sent.partition(",")[2]))).size == (2048, 1024)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(browser: Any, host: PageHost, scheme: str) -> None:
    host.reset()
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
    page = context.new_page()
    page.goto(host.url)
    open_panorama(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 3 * 64) == (scheme == "dark")
    assert page.locator("#canvas").bounding_box()["width"] == pytest.approx(360, abs=2)
    context.close()


def test_a_server_that_is_gone_is_said(browser: Any) -> None:
    context = browser.new_context()
    with hosting() as host:
        page = context.new_page()
        page.goto(host.url)
        open_panorama(page)
    ask(page, "What?")
    page.wait_for_selector("#problem:visible")
    assert "cannot be reached" in page.text_content("#problem")
    context.close()


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_the_real_server_answers_the_page(browser: Any, server: Any) -> None:
    from served import KEY as SERVER_KEY
    from served import MODEL

    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    page.fill("#key", SERVER_KEY)
    page.press("#key", "Enter")
    open_panorama(page)
    assert page.text_content("#model-name") == MODEL
    ask(page, "What is ahead?")
    page.wait_for_selector(".assistant:not(.waiting)", timeout=60_000)
    assert page.text_content(".assistant")
    context.close()
