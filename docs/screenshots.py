"""Takes the picture of the page in docs/serving.md from a running `cora-serve`.

python docs/screenshots.py http://127.0.0.1:8000 docs/assets/page.jpg
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from cora.data.synthetic import random_scene, render_panorama

SEED = 7
QUESTIONS = ("What is above?", "How many objects stand around you?")


def take(url: str, path: Path) -> None:
    """Open a synthetic panorama on the page, ask, and write what there is to see."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        panorama = Path(folder) / "panorama.png"
        Image.fromarray(render_panorama(random_scene(SEED), height=1024, width=2048)).save(panorama)
        installed = os.environ.get("CORA_CHROMIUM") or shutil.which("chromium")
        software = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = driver.chromium.launch(executable_path=installed, args=software, chromium_sandbox=os.getuid() != 0)
        page = browser.new_page(viewport={"width": 1200, "height": 680})
        page.goto(url)
        page.set_input_files("#file", panorama)
        page.wait_for_selector("#canvas[data-shown]")
        for number, question in enumerate(QUESTIONS):
            page.fill("#question", question)
            page.press("#question", "Enter")
            page.locator(".assistant:not(.waiting)").nth(number).wait_for(timeout=120_000)
        page.press("#canvas", "ArrowRight")
        page.press("#canvas", "-")
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=path, type="jpeg", quality=88)
        browser.close()


if __name__ == "__main__":
    take(sys.argv[1], Path(sys.argv[2]))
