"""The server of the library page as a real process, and the page in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from devserver import free_port
from finished_batches import write_batch
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from curation_features.errors import InputError
from curation_features.gallery import serving
from curation_features.search.finding import Found, Hit
from curation_features.search.query import Query
from curation_features.settings import Settings

pytest.importorskip("uvicorn")

CHROMIUM = shutil.which("chromium")
HOSTILE = "<img src=x onerror=document.title='owned'>\u202egpj.jpg"
COUNT = 300


def test_a_port_in_use_is_refused_or_the_next_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(serving, "FIRST_PORT", port)
    with serving.listen(port) as first, serving.listen(None) as second:
        assert (first.getsockname(), second.getsockname()[0]) == (("127.0.0.1", port), "127.0.0.1")
        assert second.getsockname()[1] > port
        with pytest.raises(InputError, match=f"port {port} cannot be used: .*--port"):
            serving.listen(port)
        monkeypatch.setattr(serving, "_PORTS", 1)
        with pytest.raises(InputError, match="in use; give a free one with --port"):
            serving.listen(None)


@pytest.mark.long
def test_the_command_serves_loopback_until_a_signal(tmp_path: Path) -> None:
    write_batch(Settings(root=tmp_path), "trip", {"a": None})
    port = free_port()
    command = [sys.executable, "-m", "curation_features", "--root", str(tmp_path), "library", "--port", str(port)]
    run = subprocess.Popen(
        [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "CI": "1"}
    )
    assert run.stderr is not None
    try:
        line = run.stderr.readline()
        address = line.partition("library: ")[2].strip()
        assert address.startswith(f"http://127.0.0.1:{port}/?token="), line
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        with browser.open(address) as answer:
            assert b"<title>Library</title>" in answer.read()
            assert "server" not in answer.headers
            page = answer.url
        with browser.open(f"{page}api/photos") as answer:
            assert json.load(answer)["count"] == 1
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(page)
        if own := [one for one in addresses() if not one.startswith("127.")]:
            with pytest.raises(OSError, match=r"refused|timed out"):
                socket.create_connection((own[0], port), timeout=2)
        run.send_signal(signal.SIGINT)
        out, errors = run.communicate(timeout=60)
    finally:
        run.kill()
    assert (run.returncode, errors.count("Traceback")) == (0, 0), errors
    fields = json.loads(out)
    assert (fields["address"], "token" in out) == (f"http://127.0.0.1:{port}/", False)


def addresses() -> list[str]:
    """The addresses of this machine."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    except OSError:
        return []


class Searching:
    """A stand-in for the search."""

    def find(self, texts: Sequence[str], **more: Any) -> Found:
        hits = tuple(Hit("trip", f"p{n}", "s", "p", 0.3, 4.0 - n / 10, n % 2) for n in range(20))
        return Found(Query.parse(["beach"], [], []), hits, 7, COUNT, 0)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """The page of 300 photos, with hostile names and labels, in a browser."""
    settings = Settings(root=tmp_path)
    Image.effect_noise((320, 240), 40).convert("RGB").save(tmp_path / "a.jpg")
    rows = [row_of(number) for number in range(COUNT)]
    write_batch(settings, "trip", dict.fromkeys(row["photo_id"] for row in rows), rows)
    opened = threading.Event()
    given: list[str] = []

    def ready(address: str, once: str) -> None:
        given.append(once)
        opened.set()

    with serving.listen(free_port()) as listening:
        server, _ = serving.make_server(settings, Searching, listening, ready)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        assert opened.wait(60)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
                page = browser.new_page(viewport={"width": 1200, "height": 900})
                page.set_default_timeout(60_000)
                expect.set_options(timeout=60_000)
                page.add_init_script(
                    "window.breaches = []; document.addEventListener('securitypolicyviolation', "
                    "(event) => window.breaches.push(event.blockedURI));"
                )
                page.asked, page.failed = [], []
                page.on("request", lambda request: page.asked.append(request.url))
                page.on("pageerror", lambda error: page.failed.append(str(error)))
                page.goto(given[0])
                yield page
                expect.set_options(timeout=5_000)
                assert page.failed == []
                assert page.evaluate("[window.breaches, document.title.includes('owned')]") == [[], False]
                assert {url.split("/")[2] for url in page.asked} == {f"127.0.0.1:{listening.getsockname()[1]}"}
                browser.close()
        finally:
            server.should_exit = True
            thread.join(60)
    assert not thread.is_alive()


def row_of(number: int) -> dict[str, Any]:
    label = HOSTILE if number % 3 == 0 else "beach"
    group = {"group_id": "g", "group_kind": "burst", "group_rank": number + 1, "group_size": 3}
    return {
        "photo_id": f"p{number}",
        "original_uri": "a.jpg" if number < 250 else f"missing/{HOSTILE}",
        "image_uri": "a.jpg" if number < 250 else f"missing/{HOSTILE}",
        "taken": datetime(2024, 12, 1) - timedelta(days=number) if number < 299 else datetime(1, 1, 1),
        "label": label,
        "camera": HOSTILE,
        "clip_labels": [{"label": label, "confidence": 0.5, "cosine_score": 0.2}],
        "sharpness": number / COUNT,
        "flags": ["blurred"] if number % 5 == 0 else [],
        "flag_reasons": [f"blurred: {HOSTILE}"] if number % 5 == 0 else [],
        "artifact": json.dumps({"exif": {"camera": HOSTILE}}),
        **({**group, "group_similarity": 0.9, "group_reason": HOSTILE} if number < 3 else {}),
    }


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt install chromium")
def test_the_page_is_used_with_mouse_and_keyboard(page: Page) -> None:
    card = page.locator(".card")
    expect(page.locator("#count")).to_have_text("300 photos")
    expect(card.first).to_contain_text("a.jpg")
    expect(page.locator("#summary")).to_have_text("300 photos in 1 batch")
    assert card.count() < 100  # only those in the window are built
    assert Axe().run(page).response["violations"] == []

    expect(page.locator("#months button").last).to_have_attribute("title", "December 2024: 1 photo")
    page.evaluate("location.hash = '#photos?sort=__proto__&page=1e400'")
    expect(page).to_have_url(re.compile("#photos$"))
    page.locator("#cloud button", has_text="beach").click()  # facets and the address
    expect(page.locator("#count")).to_have_text("200 photos")
    assert page.url.endswith("#photos?label=beach")
    page.fill("#where", "sharpness > 0.5 and camera = 'X'")
    page.press("#where", "Enter")
    expect(page.locator("#nothing-text")).to_have_text("No photo matches.")
    page.fill("#where", "sharpnes > 0.5")
    page.press("#where", "Enter")
    expect(page.locator("#problem")).to_contain_text("did you mean 'sharpness'")
    page.go_back()
    page.go_back()
    expect(page.locator("#count")).to_have_text("200 photos")
    page.locator(".chip").first.click()
    expect(page.locator("#count")).to_have_text("300 photos")

    page.route("**/api/photos?*start=240*", lambda route: route.abort(), times=1)  # it is asked again
    card.first.focus()  # keys
    page.keyboard.press("End")
    last = page.locator("[aria-posinset='300']")
    expect(last).to_contain_text("gpj.jpg")
    expect(last).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#detail-place")).to_have_text("300 of 300")
    expect(page.locator("#detail-body")).to_contain_text("The original cannot be shown")
    expect(page.locator("#detail-body")).to_contain_text("No such file")
    page.keyboard.press("Escape")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator(".large:not([hidden])")).to_have_js_property("naturalWidth", 320)
    expect(page.locator("#detail .member")).to_have_count(3)
    page.keyboard.press("z")
    expect(page.locator("#zoom")).to_have_attribute("aria-pressed", "true")
    assert Axe().run(page).response["violations"] == []

    page.keyboard.press("s")  # search
    expect(page.locator("#count")).to_have_text("20 best of 300 photos, 7 above the line")
    expect(page.locator(".likely-line")).to_have_text("Less likely from here")
    expect(page.locator(".unlikely").first).to_have_attribute("aria-posinset", "8")
    expect(card.nth(1)).to_contain_text("+1 copy")
    page.keyboard.press("/")
    page.keyboard.type("beach, -dog")
    page.keyboard.press("Enter")
    expect(page.locator("#chips")).to_contain_text("search: beach, -dog")

    expect(page.locator("#grid:not(.loading)")).to_be_visible()
    card.nth(2).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("s")
    expect(page.locator("#chips")).to_contain_text("similar to a.jpg")
    expect(page.locator("#grid:not(.loading)")).to_be_visible()
    assert page.locator(".card[tabindex='0']").count() == 1
    page.go_back()
    expect(page.locator("#chips")).to_contain_text("search: beach, -dog")
    expect(page.locator("#grid:not(.loading)")).to_be_visible()
    card.first.click()
    expect(page.locator("#detail")).to_be_visible()
    page.go_back()
    expect(page.locator("#detail")).not_to_be_visible()

    page.locator("[data-view=batches]").click()
    expect(page.locator("#batches tbody tr")).to_have_count(1)
    page.locator("[data-view=groups]").click()
    expect(page.locator("#groups .member")).to_have_count(3)
    page.set_viewport_size({"width": 390, "height": 844})
    for view in ("photos", "batches", "groups"):
        page.locator(f"[data-view={view}]").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("img[onerror]").count() == 0
