"""The report in a real browser, without a network: the table filters and sorts, the viewer looks where it says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_judge import grade, leave_verdicts
from report_run import HOSTILE, make_run

from cora.evaluation.report import write_report
from cora.geometry.camera import rays_at
from cora.geometry.sphere import direction_to_lonlat, lonlat_to_pixel
from cora.types import ViewSpec

# Of 255: what JPEG and rounding may add to a colour.
TOLERANCE = 5


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that a judge with a long name has judged, but for its hostile answers."""
    run = make_run(tmp_path_factory.mktemp("report"))
    grades = {"a red ball": grade(2), "red": grade(5)}
    leave_verdicts(run / "predictions.csv", grades.get, model="some-organisation/a-large-judge-<b>of</b>-answers:1")
    return write_report(run)


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The opened report; a message on the console, an error or a request to anywhere fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(20_000)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if not is_local(request.url) else None)

    def is_local(url: str) -> bool:
        return url.startswith("data:") or url == report.as_uri()

    page.goto(report.as_uri())
    yield page
    context.close()
    assert problems == []


def ids(page: Any) -> list[str]:
    return list(page.locator("#samples tbody td[data-label=id]").all_text_contents())


def open_viewer(page: Any, number: int = 0) -> None:
    page.locator("#samples .picture").nth(number).click()
    page.wait_for_selector("#canvas[data-shown]")


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
              return points.map(([x, y]) => {
                const pixel = context.getImageData(Math.floor(x * width), Math.floor(y * height), 1, 1);
                return [...pixel.data].slice(0, 3);
              });
            }""",
            points,
        )
    )


def shown_direction(page: Any) -> tuple[float, float, float]:
    words = page.text_content("#direction-shown").replace("°", "").split()
    return float(words[1]), float(words[3]), float(words[5])


def test_the_table_filters_sorts_and_shows_hostile_texts_as_text(page: Any) -> None:
    assert ids(page) == [str(number) for number in range(9)]
    assert page.locator("#samples tbody tr").nth(2).locator("td[data-label=question]").text_content() == HOSTILE
    assert page.evaluate("window.broken === undefined")
    page.fill("#search", "COLOUR red")
    assert ids(page) == ["1", "4"]
    assert page.text_content("#count") == "2 of 9 questions"
    page.fill("#search", "")
    page.select_option("#outcome", "unanswered")
    assert ids(page) == ["6", "7", "8"]
    assert page.locator("td.error").first.text_content() == "no answer <b>today</b>"
    page.select_option("#outcome", "")
    page.select_option("#type", "colour")
    assert ids(page) == ["1", "4", "7"]
    header = page.locator("#samples th[data-key='score:exact_match']")
    header.locator("button").click()
    assert (ids(page), header.get_attribute("aria-sort")) == (["4", "1", "7"], "ascending")
    header.locator("button").press("Enter")
    assert (ids(page), header.get_attribute("aria-sort")) == (["1", "4", "7"], "descending")


def test_the_table_sorts_by_what_the_judge_said(page: Any) -> None:
    header = page.locator("#samples th[data-key^='score:judge:']")
    assert header.text_content() == "Judge some-organisation/a-large-judge-<b>of</b>-answers:1"
    header.locator("button").click()
    assert ids(page)[:4] == ["0", "3", "1", "4"]
    header.locator("button").click()
    assert ids(page)[:4] == ["1", "4", "0", "3"]
    cells = page.locator("#samples tbody td[data-label^=Judge]").all_text_contents()
    assert cells[:5] == ["100.000", "100.000", "40.000", "40.000", "–"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200
    page.locator("#samples .picture").first.click()
    page.wait_for_selector("#canvas[data-shown]")
    assert "100.0000" in page.text_content("#details")


def test_the_viewer_draws_what_the_geometry_says(page: Any) -> None:
    open_viewer(page)
    points = [(0.5, 0.5), (0.1, 0.2), (0.9, 0.85), (0.3, 0.95)]
    size = page.evaluate("[document.getElementById('canvas').width, document.getElementById('canvas').height]")
    assert min(size) > 300
    for yaw_steps, pitch_steps in ((0, 0), (4, 0), (0, 3), (-20, -5)):
        page.locator("#canvas").press("0")
        for key, count in (("Right", yaw_steps), ("Up", pitch_steps)):
            for _ in range(abs(count)):
                page.locator("#canvas").press("Arrow" + (key if count > 0 else {"Right": "Left", "Up": "Down"}[key]))
        yaw, pitch, fov = shown_direction(page)
        assert (yaw, pitch, fov) == (7.5 * yaw_steps, 7.5 * pitch_steps, 90)
        scale = 1 / max(size)
        fovs = [math.degrees(2 * math.atan(math.tan(math.radians(fov / 2)) * side * scale)) for side in size]
        view = ViewSpec(0, "perspective", yaw, pitch, *fovs)
        x, y = (torch.tensor([point[axis] for point in points], dtype=torch.float64) for axis in (0, 1))
        column, row = lonlat_to_pixel(*direction_to_lonlat(rays_at(view, x, y, 1, 1)), 1, 1)
        for (red, green, blue), u, v in zip(colours(page, points), column.tolist(), row.tolist(), strict=True):
            assert abs(red - 255 * u) < TOLERANCE
            assert abs(green - 255 * v) < TOLERANCE
            assert abs(blue - 128) < TOLERANCE


def test_dragging_takes_the_scene_along_and_the_wheel_zooms(page: Any) -> None:
    open_viewer(page)
    box = page.locator("#canvas").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 100, middle[1] + 50, steps=4)
    page.mouse.up()
    yaw, pitch, _ = shown_direction(page)
    degrees = 90 / max(box["width"], box["height"])
    assert yaw == pytest.approx(100 * degrees, abs=0.1)
    assert pitch == pytest.approx(50 * degrees, abs=0.1)
    page.mouse.wheel(0, -120)
    page.wait_for_function("!document.getElementById('direction-shown').textContent.includes('fov 90')")
    assert shown_direction(page)[2] < 90


def test_the_views_of_the_model_and_the_neighbours_are_reached_by_keyboard(page: Any) -> None:
    page.locator("#samples .picture").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#canvas[data-shown='0']")
    assert page.evaluate("document.activeElement.id") == "canvas"
    view = page.get_by_role("button", name="1: yaw 90° pitch 30°")
    view.focus()
    page.keyboard.press("Enter")
    assert shown_direction(page)[:2] == (90, 30)
    assert view.get_attribute("aria-pressed") == "true"
    (red, green, _), *_ = colours(page, [(0.5, 0.5)])
    assert abs(red - 255 * 0.75) < TOLERANCE
    assert abs(green - 255 * 60 / 180) < TOLERANCE
    page.keyboard.press("n")
    page.wait_for_selector("#canvas[data-shown='1']")
    assert "What colour?" in page.text_content("#details")
    page.keyboard.press("p")
    page.wait_for_selector("#canvas[data-shown='0']")
    page.keyboard.press("Escape")
    assert not page.evaluate("document.getElementById('viewer').open")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(browser: Any, report: Path, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    # Beside a long name a value must not become a column of single letters.
    widths = page.evaluate("[...document.querySelectorAll('td.value, td.remark')].map((cell) => cell.offsetWidth)")
    assert min(widths) > 200
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 3 * 64) == (scheme == "dark")
    page.locator("#samples .picture").first.tap()
    page.wait_for_selector("#canvas[data-shown]")
    assert page.locator("#canvas").bounding_box()["width"] == pytest.approx(360, abs=2)
    context.close()
