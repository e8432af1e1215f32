"""Opens the pages of `dopamine show` in Chromium, as a person would; for the environment of `make browser-env`.

python browser_program.py URL OUT: writes OUT/seen.json and screenshots. A line on standard output, `waiting`, asks for
a new episode of the running run, whose number the first page then shows by itself.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

WIDE, NARROW = 1280, 420


def open_browser() -> Chrome:
    options = Options()
    options.binary_location = "/usr/bin/chromium"
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    # No network but loopback: a page that needs the internet is seen to fail.
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})  # type: ignore[arg-type]
    return Chrome(options=options, service=Service("/usr/bin/chromedriver"))


class Visit:
    """One browser and what it has seen."""

    def __init__(self, browser: Chrome, url: str, out: Path) -> None:
        self.browser, self.url, self.out = browser, url.rstrip("/"), out
        self.seen: dict[str, Any] = {"overflow": {}}

    def open(self, path: str) -> None:
        self.browser.get(self.url + path)

    def find(self, css: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def texts(self, css: str) -> list[str]:
        return [element.text for element in self.find(css)]

    def wait(self, what: Callable[[], object]) -> None:
        WebDriverWait(self.browser, 60).until(lambda _: what())

    def picture(self, name: str) -> None:
        """Screenshots at both widths, and by how many pixels the page is too wide."""
        for width in (WIDE, NARROW):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            self.wait(lambda: self.browser.execute_script("return [...document.images].every(i => i.complete)"))
            root = "document.documentElement"
            high = self.browser.execute_script(f"return {root}.scrollHeight")
            self.seen["overflow"][f"{name} {width}"] = self.browser.execute_script(f"return {root}.scrollWidth") - width
            size["height"] = min(int(high), 2600)
            self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            self.browser.save_screenshot(str(self.out / f"{name}_{width}.png"))
        self.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def shown(self, player: Any) -> dict[str, Any]:
        """What a player shows now."""
        fields = player.find_elements(By.CSS_SELECTOR, "[data-field]")
        image = player.find_element(By.CSS_SELECTOR, ".picture")
        self.wait(lambda: image.get_property("naturalWidth"))
        [plot] = player.find_elements(By.CSS_SELECTOR, ".seek")
        [cursor] = player.find_elements(By.CSS_SELECTOR, ".cursor")
        left = (cursor.rect["x"] - plot.rect["x"]) / plot.rect["width"]
        values = {field.get_attribute("data-field"): field.text for field in fields}
        return {**values, "source": image.get_property("src"), "cursor": left}

    def inspect(self) -> None:
        """The list, an episode from it, and its player: slider, plot, play, keys."""
        began = time.monotonic()
        self.open("/runs/0/episodes")
        self.wait(lambda: self.find("tbody img")[0].get_property("naturalWidth"))
        self.seen["first_picture_s"] = time.monotonic() - began
        self.seen["order"] = self.texts("tbody .badge")
        self.picture("episodes")
        self.find("tbody th a")[0].click()
        [player] = self.find(".player")
        self.seen["end"] = self.shown(player)
        [slider] = self.find(".player input[type=range]")
        self.browser.execute_script("arguments[0].value = 1; arguments[0].dispatchEvent(new Event('input'))", slider)
        self.seen["second"] = self.shown(player)
        self.find(".player [data-do=play]")[0].click()
        self.wait(lambda: self.find(".player [data-do=play]")[0].get_attribute("aria-label") == "play")
        self.seen["played"] = self.shown(player)
        self.find(".seek")[0].click()  # its middle
        self.seen["middle"] = self.shown(player)
        self.picture("episode")
        self.find("a[rel=next]")[0].click()
        self.seen["next"] = self.texts("h1 .badge")

    def compare(self) -> None:
        """Two runs, other episodes of them, both played."""
        self.open("/")
        self.seen["players"] = len(self.find(".player"))
        Select(self.find("select[name=second]")[0]).select_by_index(1)
        self.wait(lambda: "second=" in self.browser.current_url)
        self.find("[data-do=play-all]")[0].click()
        buttons = ".player [data-do=play]"
        self.wait(lambda: {b.get_attribute("aria-label") for b in self.find(buttons)} == {"play"})
        self.seen["compared"] = [self.shown(player)["ending"] for player in self.find(".player")]
        self.picture("compare")

    def follow(self) -> None:
        """The running run: a new point appears without a click."""
        self.open("/runs/1")
        self.seen["running"] = self.texts("h1 .badge")
        before = self.texts(".headlines b")
        self.picture("running")
        print("waiting", flush=True)
        self.wait(lambda: self.texts(".headlines b") not in (before, []))
        self.seen["headlines"] = [before, self.texts(".headlines b")]


def main(url: str, out: str) -> None:
    with open_browser() as browser:
        visit = Visit(browser, url, Path(out))
        visit.open("/runs/0")
        visit.picture("run")
        visit.inspect()
        visit.compare()
        visit.follow()
        report = Path(out) / "report.html"
        browser.get(report.as_uri())
        visit.seen["report"] = visit.shown(visit.find(".player")[0])["ending"]
        visit.picture("report")
        visit.seen["errors"] = [line["message"] for line in browser.get_log("browser")]
        (Path(out) / "seen.json").write_text(json.dumps(visit.seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
