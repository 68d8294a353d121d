"""The dashboard in a real Chromium: it plays, seeks, follows, and all can use it, by keys too."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from dashboard.app import make_app
from manifests.tables import records, scans
from tests.dashboard.conftest import run_events

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
sync_api = pytest.importorskip("playwright.sync_api", reason="install it: make test-browser")
CHROMIUM = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("chromium-browser")
WIDE, NARROW = {"width": 1360, "height": 900}, {"width": 390, "height": 844}
# Only what fails: with all that passes an answer is a megabyte, and takes minutes on a busy machine.
ASKED = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
    "resultTypes": ["violations"],
}


class Served:
    """The dashboard over a dataset, on a free port, in a thread."""

    def __init__(self, uri: str, cache: Path, **kwargs) -> None:
        import uvicorn

        self.app = make_app(uri, cache, **kwargs)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        settings = uvicorn.Config(self.app, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._socket.close()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium: install it, or set CHROMIUM_PATH")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def served(eventful, tmp_path_factory):
    found = Served(eventful.uri, tmp_path_factory.mktemp("index"))
    yield found
    found.close()


class Watched:
    """A page that notes what should not be: errors, and requests that leave this machine."""

    def __init__(self, browser, base: str, **context) -> None:
        self.base, self.has_scripts = base, context.get("java_script_enabled", True)
        self.context = browser.new_context(viewport=context.pop("viewport", WIDE), **context)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on(
            "console", lambda said: said.type in ("error", "warning") and self.wrong.append(said.text)
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self._leaves)

    def _leaves(self, request) -> None:
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.wrong.append(f"left loopback: {request.url}")

    def go(self, address: str):
        """A page whose parts hear what is done to them: they come after the page itself."""
        answer = self.page.goto(self.base + address)
        assert answer.ok, (address, answer.status)
        if self.has_scripts:
            self.page.wait_for_selector("[data-ready]", state="attached")
        return self.page

    def __enter__(self):
        return self

    def __exit__(self, kind, *_) -> None:
        self.context.close()
        if kind is None:
            assert not self.wrong, self.wrong


def until(page, expression: str, seconds: float = 15.0) -> None:
    """Wait until an expression is true. By asking again: the policy of the pages lets no text be run."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def a_video(eventful) -> dict:
    rows = scans.table(eventful, "clips").to_pylist()
    return max((row for row in rows if row["kind"] == "video"), key=lambda row: row["end_s"] - row["start_s"])


def pages(eventful) -> list[str]:
    return [
        *("/", "/shards", "/shards/0", "/clips", "/clips?camera=static&motion=0..", "/drops", "/captions"),
        f"/clips/{a_video(eventful)['clip_id']}",
        *("/drops?view=newest&stage=text&reason=too_short", "/train", "/train/small", "/map", "/runs"),
        *("/map?view=mapped", "/map?view=mapped&x=motion"),
        "/sql?q=SELECT camera, count(*) FROM clips GROUP BY 1",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_page_is_clean_fits_and_can_be_used_by_all(browser, served, eventful, scheme, viewport):
    from axe_playwright_python.sync_playwright import Axe

    axe, found = Axe(), []
    with Watched(
        browser, served.base, viewport=viewport, color_scheme=scheme
    ) as plain:  # its policy as served
        for address in pages(eventful):
            page = plain.go(address)
            page.wait_for_load_state("networkidle") if address != "/" else page.wait_for_timeout(300)
            over = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert over <= 0, (address, over)
    with Watched(browser, served.base, viewport=viewport, color_scheme=scheme, bypass_csp=True) as checked:
        for address in pages(eventful):
            page = checked.go(address)
            page.wait_for_load_state("networkidle") if address != "/" else page.wait_for_timeout(300)
            result = axe.run(page, options=ASKED)
            found += [
                (address, broken["id"], broken["nodes"][0]["html"][:150])
                for broken in result.response["violations"]
            ]
    assert not found, found


def test_a_video_seeks_to_80_percent_and_shows_that_frame(browser, served, eventful):
    clip = a_video(eventful)
    with Watched(browser, served.base) as watched:
        page = watched.go(f"/clips/{clip['clip_id']}")
        found = page.evaluate(
            """async () => {
              const video = document.querySelector("video");
              if (video.readyState < 1) await new Promise((done) => { video.onloadedmetadata = done; });
              const shot = () => {
                const canvas = document.createElement("canvas");
                canvas.width = video.videoWidth; canvas.height = video.videoHeight;
                canvas.getContext("2d").drawImage(video, 0, 0);
                return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
              };
              const at = async (time) => {
                const seeked = new Promise((done) => { video.onseeked = done; });
                video.currentTime = time;
                await seeked;
                await new Promise((done) => setTimeout(done, 150));
                return shot();
              };
              const first = await at(0.001), late = await at(0.8 * video.duration);
              const apart = late.reduce((sum, value, i) => sum + Math.abs(value - first[i]), 0) / late.length;
              return { time: video.currentTime, duration: video.duration, apart };
            }"""
        )
    assert found["time"] == pytest.approx(0.8 * found["duration"], abs=0.05) and found["apart"] > 1


def test_a_dropped_clip_plays_and_its_frames_are_shown(browser, served):
    with Watched(browser, served.base) as watched:
        page = watched.go("/drops?view=newest&stage=text&reason=too_short")
        frames = page.locator("img.frames").first
        frames.scroll_into_view_if_needed()
        until(page, "document.querySelector('img.frames').naturalWidth > 100")
        video = page.locator("video").first
        assert video.count(), "the first film is of a kind that browsers play"
        video.evaluate("(video) => video.play()")
        until(page, "document.querySelector('video').currentTime > 0.05")


def test_a_threshold_is_dragged_and_a_range_filters(browser, served):
    with Watched(browser, served.base) as watched:
        page = watched.go("/drops?view=newest&stage=text&reason=too_short")
        page.locator("input[type=range]").evaluate(
            "(range) => { range.value = 0.11; range.dispatchEvent(new Event('input')); }"
        )
        until(page, "document.querySelector('[data-would]').textContent.includes('6 of these 12')")
        page = watched.go("/clips")
        box = page.locator("svg.histogram").first.bounding_box()
        page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 20, steps=4)
        page.mouse.up()
        page.wait_for_url(re.compile(r"seconds=\d"))
        low, high = map(float, re.search(r"seconds=([\d.]+?)\.\.([\d.]+)", page.url).groups())
        shown = [float(text.split()[0]) for text in page.locator(".length").all_inner_texts()]
        assert all(low - 0.06 <= seconds <= high + 0.06 for seconds in shown)


def test_the_keys_alone_lead_through_it(browser, served):
    with Watched(browser, served.base) as watched:
        page = watched.go("/")
        page.keyboard.press("g")
        page.keyboard.press("c")
        page.wait_for_url("**/clips")
        page.keyboard.press("j")
        page.keyboard.press("j")
        second = page.evaluate("document.activeElement.getAttribute('href')")
        page.keyboard.press("Enter")
        page.wait_for_url(f"**{second}")
        page.keyboard.press("?")
        assert page.locator("dialog[open]").count() == 1
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.name") == "q"
        page.keyboard.type("ball")
        page.keyboard.press("Enter")
        page.wait_for_url("**/clips?q=ball")


def test_space_works_what_has_the_focus_and_f_leads_to_the_filters(browser, served, eventful):
    with Watched(browser, served.base) as watched:
        page = watched.go(f"/clips/{a_video(eventful)['clip_id']}")
        page.focus("summary")
        was_open = page.evaluate("document.activeElement.parentElement.open")
        page.keyboard.press("Space")
        assert page.evaluate("document.activeElement.parentElement.open") != was_open
        assert page.evaluate("document.querySelector('video').paused")
        page = watched.go("/clips?camera=static")
        page.keyboard.press("f")
        assert page.evaluate("document.activeElement.name") == "q"
        page.set_viewport_size(NARROW)
        page = watched.go(f"/clips?q={'x' * 300}")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert not page.evaluate("document.querySelector('#filters > details').open")


def test_only_a_key_that_is_meant_for_it_judges_a_caption(browser, eventful, tmp_path):
    path = tmp_path / "v.jsonl"
    judging = Served(eventful.uri, tmp_path / "index", verdicts=path)
    try:
        with Watched(browser, judging.base) as watched:
            page = watched.go("/check?view=newest")
            until(page, "!document.querySelector('[data-keys]').hidden")
            page.wait_for_timeout(300)
            for keys in ("Control+1", "Alt+2", "Meta+3"):
                page.keyboard.press(keys)
            page.wait_for_timeout(300)
            assert path.read_text() == ""
            first = page.get_attribute("[data-check]", "data-caption")
            held = []

            def hold(route):
                """The first verdict, until both keys are pressed."""
                if route.request.method == "POST" and not held:
                    held.append(route)
                else:
                    route.continue_()

            page.route("**/check?*", hold)
            page.keyboard.press("1")
            page.keyboard.press("3")  # meant for the next one, which is not there yet
            page.wait_for_timeout(200)
            held[0].continue_()
            page.locator(f"[data-check]:not([data-caption='{first}'])").wait_for()
            page.wait_for_timeout(300)
            assert [row["verdict"] for row in map(json.loads, path.read_text().splitlines())] == ["right"]
            path.unlink()
            path.mkdir()
            page.keyboard.press("1")
            page.get_by_text("cannot be read").wait_for()
            watched.wrong.clear()  # the browser notes the refusal itself
    finally:
        judging.close()


def test_lists_filters_and_video_work_without_a_script(browser, served):
    with Watched(browser, served.base, java_script_enabled=False) as watched:
        page = watched.go("/clips?kind=video")
        count = page.locator(".tile").count()
        assert count > 3
        page.fill("aside input[name=q]", "ball")
        page.click("aside form button")
        page.wait_for_url("**q=ball**")
        assert 0 < page.locator(".tile").count() < count and "kind=video" in page.url
        page.locator(".tile a").first.click()
        assert page.locator("video[controls]").count() == 1


def test_a_change_arrives_while_a_video_plays_on(browser, copy, tmp_path):
    log = run_events(copy, time.time() - 3)
    served = Served(copy.uri, tmp_path / "index")
    try:
        with Watched(browser, served.base) as watched:
            page = watched.go("/")
            until(page, "document.querySelector('.stages').textContent.includes('4 / 8')")
            page.evaluate(
                """() => {
                  const clip = document.querySelector(".tile:has(.length)").dataset.clip;
                  const video = document.createElement("video");
                  const src = `/media/${clip}.proxy.webm`;
                  Object.assign(video, { id: "mine", src, muted: true, loop: true });
                  document.querySelector("main").append(video);
                  return video.play();
                }"""
            )
            account = {"num_in": 3, "num_kept": 3, "num_dropped": 0, "num_failed": 0}
            log.write("committed", "3 kept", "caption", 5, seconds=9.0, footage_s=10.0, **account)
            begin = time.monotonic()
            until(page, "document.querySelector('.stages').textContent.includes('5 / 8')")
            assert time.monotonic() - begin < 15
            assert page.evaluate("!document.querySelector('#mine').paused")
            assert "left" in page.locator(".sentence").inner_text()
    finally:
        served.close()


def test_damage_and_a_dead_run_are_seen(browser, copy, tmp_path):
    column = next(column for column in copy.columns() if column.name == "latent")
    tar, _ = records.members_of_shard(copy, column, 0)
    Path(tar).unlink()
    run_events(copy, time.time() - 5000)
    served = Served(copy.uri, tmp_path / "index")
    try:
        with Watched(browser, served.base) as watched:
            page = watched.go("/")
            said = page.locator(".sentence").inner_text()
            assert (
                "No sign of life since" in said and " left" not in said and "1 shard columns corrupt" in said
            )
            page = watched.go("/shards")
            page.wait_for_selector("canvas[data-drawn]")
            assert "is missing" in page.locator("main").inner_text()
            page.locator("canvas").focus()
            page.keyboard.press("ArrowRight")
            assert "shard" in page.locator(".hover").inner_text()
    finally:
        served.close()


def test_curves_and_the_map_are_drawn(browser, served):
    with Watched(browser, served.base) as watched:
        page = watched.go("/train/small")
        until(page, "document.querySelectorAll('[data-chart][data-drawn]').length >= 8")
        page = watched.go("/map")
        page.wait_for_selector("canvas[data-drawn]")
        box = page.locator("canvas").bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 5, box["y"] + box["height"] - 5, steps=3)
        page.mouse.up()
        page.wait_for_url(re.compile("/clips.*motion="))
        assert page.locator(".tile").count() > 0


def test_a_line_around_points_of_the_map_opens_those_clips(browser, served, eventful):
    with Watched(browser, served.base) as watched:
        page = watched.go("/map?view=mapped")
        page.wait_for_selector("canvas[data-drawn]")
        painted = page.evaluate(
            """() => {
              const canvas = document.querySelector("canvas"), pen = canvas.getContext("2d");
              const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
              let count = 0;
              for (let at = 3; at < data.length; at += 4) count += data[at] > 0;
              return count;
            }"""
        )
        assert painted > 50
        box = page.locator("canvas").bounding_box()
        corners = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.55), (0.02, 0.55)]
        at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
        page.mouse.move(*at[0])
        page.mouse.down()
        for corner in at[1:]:
            page.mouse.move(*corner, steps=6)
        page.mouse.up()
        page.wait_for_url(re.compile("/clips.*lasso="))
        assert "view=mapped" in page.url
        rows = scans.table(eventful, "map").to_pylist()
        inside = {r["clip_id"] for r in rows if 0.03 < r["x"] < 0.97 and 0.46 < r["y"] < 0.97}
        around = {r["clip_id"] for r in rows if 0.01 < r["x"] < 0.99 and 0.44 < r["y"] < 0.99}
        shown = set(page.locator(".tile").evaluate_all("(tiles) => tiles.map((tile) => tile.dataset.clip)"))
        assert inside <= shown <= around and shown
        page.go_back()
        page.wait_for_selector("canvas[data-drawn]")
        page.focus("canvas")  # the same by keys: a corner at each end of the upper half
        for keys in (
            ["ArrowLeft"] * 5 + ["ArrowUp"] * 5,
            ["ArrowRight"] * 10,
            ["ArrowDown"] * 5,
            ["ArrowLeft"] * 10,
        ):
            for key in keys:
                page.keyboard.press(f"Shift+{key}")
            page.keyboard.press("c")
        assert "4 corners" in page.text_content("[role=status]:below(canvas)")
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("/clips.*lasso="))
        shown = set(page.locator(".tile").evaluate_all("(tiles) => tiles.map((tile) => tile.dataset.clip)"))
        assert shown == {r["clip_id"] for r in rows if r["y"] >= 0.5}
        page.locator(".tile a").first.click()
        page.click("text=Its place on the map")
        page.wait_for_selector("[data-mark] canvas[data-drawn]")
