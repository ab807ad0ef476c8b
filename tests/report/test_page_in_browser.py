"""The contact sheet in a browser: its use with mouse and keyboard, and its safety.

Every opened page is checked: it requests nothing but its own file, breaches no policy and logs no error.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from contact_sheets import BLURRED, DARK, SIGNALS, SOFT, degraded, failed, many, photo, sheet, thumbnail
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from curation_features.report.page import REASONS, render
from curation_features.schema import METRIC_NAMES, METRICS

NAMES = {"clip_iqa": "CLIP-IQA", "brisque": "BRISQUE"}
CHROMIUM = shutil.which("chromium")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
OPTIONS += ["--disable-sync", "--no-first-run"]
WATCH = """
    window.breaches = [];
    document.addEventListener("securitypolicyviolation", (event) => window.breaches.push(event.blockedURI));
"""
SEPARATE = {"has_touch": False}  # any option opens a page in a separate context
HOSTILE = [
    "<img src=x onerror=document.title='owned'>",
    "</script><script>document.title='owned'</script>",
    "=cmd|' /C calc'!A0",
    "\x1b[2J\u202egpj.txt\u2066\x00",
    "line\r\nbreak\u2028and",
    "n" * 300,
    "\U0001f469\U0001f3fd\u200d\U0001f680 caf\u00e9 \u65e5\u672c\u8a9e \u05e9\u05dc\u05d5\u05dd",
    "[object Object] __proto__ constructor",
]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt install chromium"),
]

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        expect.set_options(timeout=60_000)
        yield chromium
        expect.set_options(timeout=5_000)
        chromium.close()


def new_context(browser: Browser, script: str = "", **options: Any) -> BrowserContext:
    context = browser.new_context(**{"viewport": {"width": 1300, "height": 2400}, **options})
    context.add_init_script(WATCH + script)
    context.set_default_timeout(60_000)
    return context


def new_page(context: BrowserContext) -> Page:
    """A page that records its requests in `asked`, and its errors in `logged`."""
    page = context.new_page()
    page.asked, page.logged = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: message.type in ("error", "warning") and page.logged.append(message.text))
    page.on("pageerror", lambda error: page.logged.append(str(error)))
    return page


@pytest.fixture(scope="module")
def shared_page(browser: Browser) -> Page:
    """The first page of every test; its storage is cleared between tests."""
    return new_page(new_context(browser))


@pytest.fixture
def unwatched(browser: Browser, shared_page: Page, tmp_path: Path) -> Iterator[Open]:
    """Opens the page of a sheet, `beside` a page in its context and file, or else in a separate context."""
    opened: list[Page] = []

    def open_sheet(
        given: dict[str, Any],
        fragment: str = "",
        change: Callable[[str], str] = str,
        beside: Page | None = None,
        script: str = "",
        **options: Any,
    ) -> Page:
        if beside:
            page, path = new_page(beside.context), beside.path
        else:
            page = new_page(new_context(browser, script, **options)) if opened or script or options else shared_page
            path = tmp_path / f"sheet-{len(opened)}.html"
        page.path = path
        path.write_text(change(b"".join(render(given)).decode()), encoding="utf-8")
        page.goto(path.as_uri() + (f"#{fragment}" if fragment else ""))
        opened.append(page)
        return page

    open_sheet.opened = opened
    yield open_sheet
    for context in {page.context for page in opened} - {shared_page.context}:
        context.close()
    if shared_page in opened:
        shared_page.evaluate("localStorage.clear()")
        for page in {*shared_page.context.pages} - {shared_page}:
            page.close()
        shared_page.goto("about:blank")
        shared_page.asked, shared_page.logged = [], []


@pytest.fixture
def view(unwatched: Open) -> Iterator[Open]:
    """Opens pages like `unwatched`, and checks them at the end."""
    yield unwatched
    assert unwatched.opened
    for page in (page for page in unwatched.opened if not page.is_closed()):
        assert {urlsplit(url).scheme for url in page.asked} <= {"file", "data", "blob"}
        assert {urlsplit(url).path for url in page.asked if url.startswith("file:")} == {urlsplit(page.url).path}
        assert page.evaluate("window.breaches") == []
        assert page.logged == []


def photos() -> list[dict[str, Any]]:
    """24 photos, of which two failed and four are degraded."""
    made = [photo(position, thumbnail=thumbnail(position)) for position in range(24)]
    made[3] = degraded(3, "noise", reason="flat_image")
    made[8] = degraded(8, "clip_labels", "clip_iqa")
    made[9] = degraded(9, "clip_labels", "clip_iqa")
    made[15] = degraded(15, "brisque", reason="undefined_statistics")
    made[11] = failed(11)
    made[20] = failed(20, "missing", name="an earlier one.png")
    return made


def wait_for(page: Page, condition: str) -> None:
    """Wait until an expression is true. Playwright's `wait_for_function` breaches the page's policy."""
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def card(page: Page, place: int) -> Locator:
    """The card at a place, from 0."""
    return page.locator(".card").nth(place)


def mark(page: Page, *numbers: int) -> None:
    """Click the rings of photos, numbered from 1 in the order of the batch."""
    for number in numbers:
        page.click(f"#p{number - 1} .ring")


def marked(page: Page) -> list[int]:
    """The numbers of the marked photos."""
    return sorted(int(card.get_attribute("id")[1:]) + 1 for card in page.locator(".card[aria-selected=true]").all())


def exported(page: Page) -> list[dict[str, str]]:
    """The rows of the downloaded CSV."""
    with page.expect_download() as download:
        page.click("#download")
    page.downloaded = download.value.suggested_filename
    with download.value.path().open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def names(page: Page) -> list[str]:
    return page.locator(".card .name bdi:first-child").all_text_contents()


def expected(given: list[dict[str, Any]], keep: Callable[[dict[str, Any]], bool]) -> set[str]:
    found = {item["name"] for item in given if keep(item)}
    assert 0 < len(found) < len(given)
    return found


def goodness(item: dict[str, Any], place: int) -> float | None:
    """A score, inverted if lower is better; None if missing."""
    score = item["scores"][place]
    return None if score is None else score if METRICS[place].best else 1 - score


def confidence(item: dict[str, Any], label: str, scope: int) -> float:
    return max((share for name, share, _ in item["labels"][:scope] if name == label), default=-1)


def test_failed_and_degraded_photos_come_first(view: Open) -> None:
    page = view(sheet(photos()))
    first = ["IMG_12.jpg", "an earlier one.png", "IMG_4.jpg", "IMG_9.jpg", "IMG_10.jpg", "IMG_16.jpg", "IMG_1.jpg"]
    assert names(page)[:7] == first
    reasons = {0: REASONS["truncated"], 2: f"noise: {REASONS['flat_image']}"}
    for place, text in {**reasons, 3: f"labels, CLIP-IQA: {REASONS['missing_weights']}"}.items():
        expect(card(page, place)).to_contain_text(text)
    expect(card(page, 0)).to_contain_text("failed")
    assert card(page, 6).locator(".why").count() == 0
    expect(page.locator("#count")).to_have_text("24 photos")
    expect(page.locator("#summary")).to_have_text("24 photos: 2 failed, 4 degraded, 18 ok")


def in_folders() -> list[dict[str, Any]]:
    """The photos in a folder and two subfolders, with descending dates."""
    given = photos()
    for item in given:
        item["path"] = f"{('', 'day 10/', 'day 9/')[item['position'] % 3]}{item['name']}"
        item["taken"] = item["taken"] and f"{2040 - item['position']}-05-17 18:03:00"
    return given


ORIGINS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "taken": lambda item: item["taken"],
    "folder": lambda item: {"": None, "day 9": 9, "day 10": 10}[item["path"].rpartition("/")[0]],
    "camera": lambda item: dict(item["facts"]).get("Camera"),
    "lens": lambda item: dict(item["facts"]).get("Lens"),
    "iso": lambda item: item["iso"],
}
BEST_FIRST: dict[str, Callable[[dict[str, Any]], Any]] = {
    "tenengrad": lambda item: item["raw"].get("tenengrad"),
    "blur_px": lambda item: item["signals"][0] if item["signals"] else None,  # the softest first
    "focus_px": lambda item: item["signals"][8] if item["signals"] else None,
    "confidence": lambda item: item["labels"][0][1] if item["labels"] else None,
    "margin": lambda item: item["margin"],
    **{name: partial(goodness, place=place) for place, name in enumerate(METRIC_NAMES)},
}


def test_every_order_puts_missing_values_last(view: Open) -> None:
    given = in_folders()
    page = view(sheet(given), "sort=iso")
    assert page.input_value("#sort") == "iso"
    assert page.locator("#sort option").count() == len(BEST_FIRST | ORIGINS) + 3
    for key, value in (BEST_FIRST | ORIGINS).items():
        page.select_option("#sort", key)
        found = [item for item in given if value(item) is not None]
        last = [item["name"] for item in given if item not in found]
        assert 0 < len(last) < len(given)
        for direction, descends in enumerate((key in BEST_FIRST, key in ORIGINS)):
            assert direction or page.input_value("#direction") == "0"
            page.select_option("#direction", str(direction))
            wanted = sorted(found, key=value, reverse=descends)  # stable
            assert names(page) == [item["name"] for item in wanted] + last, key
    page.select_option("#sort", "name")
    assert names(page)[:3] == ["an earlier one.png", "IMG_1.jpg", "IMG_2.jpg"]
    assert names(page)[-1] == "IMG_24.jpg"
    page.select_option("#sort", "position")
    page.select_option("#direction", "1")
    assert names(page) == [item["name"] for item in given[::-1]]


def test_an_order_without_values_is_not_offered(view: Open) -> None:
    nothing = {"taken": None, "facts": [], "iso": None, "raw": {}, "labels": [], "margin": None}
    page = view(sheet([photo(n, signals=[], **nothing) for n in range(3)]), "sort=taken&flag=blurred")
    expect(page.locator("#flags-group")).to_be_hidden()  # like a batch of an earlier release
    expect(page.locator("#nothing")).to_be_visible()
    page.locator(".chip").click()
    assert page.locator(".badge").count() == 0
    options = page.locator("#sort option").evaluate_all("(options) => options.map((option) => option.value)")
    assert options == ["problems", *METRIC_NAMES, "name", "position"]
    assert page.input_value("#sort") == "problems"
    assert page.locator("#origins details:visible").count() == 0


def flagged() -> list[dict[str, Any]]:
    """The photos; some have flags, hints and a known sharpest place."""
    given = photos()
    for place, flags, hints in ((1, [BLURRED], []), (4, [BLURRED, DARK], []), (5, [], [SOFT]), (8, [DARK], [])):
        given[place] |= {"flags": flags, "hints": hints}
    given[4]["signals"][0], given[5]["signals"][0] = 0.934, 0.7
    given[4] |= {"focus": [0.5, 0.25, 0.02, 0.03], "original": "../../photos/5.jpg"}
    return given


FLAG_COUNTS = {"blurred": 2, "noisy": 0, "dark": 2, "": 19, "shaken": 0, "soft": 1, "bright": 0, "blocky": 0}


def test_flags_and_hints_are_filters(view: Open) -> None:
    given = flagged()
    page = view(sheet(given), "sort=position")
    expect(page.locator("#summary")).to_have_text(re.compile(r"18 ok; flags: 2 blurred, 2 dark$"))
    buttons = page.locator("#flags button, #hints button").all()
    assert {b.get_attribute("value"): int(b.locator(".count").inner_text()) for b in buttons} == FLAG_COUNTS
    assert card(page, 4).locator(".badge").all_inner_texts() == ["blurred", "dark"]
    assert card(page, 8).locator(".badge").all_inner_texts() == ["degraded", "dark"]
    assert card(page, 5).locator(".badge").count() == 0  # a hint has no badge
    assert "flag blurred, flag dark" in str(card(page, 4).get_attribute("aria-label"))
    page.locator("#flags button").first.focus()
    page.keyboard.press("Enter")
    assert names(page) == ["IMG_2.jpg", "IMG_5.jpg"]
    for _ in ("noisy", "dark", "no flag", "shaken", "soft"):
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert names(page) == ["IMG_2.jpg", "IMG_5.jpg", "IMG_6.jpg"]
    assert page.locator(".chip").all_inner_texts() == ["flag: blurred", "hint: soft", "clear all"]
    page.click("#labels button:not(.none)")
    assert 0 < len(names(page)) <= 3
    wait_for(page, "/flag=blurred&flag=soft&label=/.test(location.hash)")
    assert names(view(sheet(given), urlsplit(page.url).fragment, beside=page)) == names(page)
    page.locator(".chip.all").click()
    page.click("#flags button[value='']")
    assert set(names(page)) == expected(given, lambda item: bool(item["signals"]) and not item["flags"])
    page.click("#open-export")
    page.check("input[value=shown]", force=True)
    rows = {row["id"]: row for row in exported(page)}
    assert {row["flags"] for row in rows.values()} == {""}
    soft = rows["id-5"]
    assert (soft["hints"], float(soft["blur_px"]), float(soft["noise_luma"])) == ("soft", 0.7, given[5]["signals"][2])


def test_details_show_signals_in_words(view: Open) -> None:
    given = flagged()
    page = view(sheet(given), "sort=blur_px")
    assert names(page)[:2] == ["IMG_5.jpg", "IMG_6.jpg"]
    expect(card(page, 0).locator(".sorted-by")).to_have_text("edges 0.93 px")
    page.select_option("#sort", "focus_px")
    expect(page.locator(".card .sorted-by").last).to_have_text("not measured")
    page.select_option("#sort", "position")
    expect(card(page, 4).locator(".sorted-by")).to_be_empty()
    card(page, 4).click()
    detail = page.locator("#detail")
    assert detail.locator("ul.flags li").all_inner_texts() == [": ".join(flag) for flag in (BLURRED, DARK)]
    table = detail.locator("table", has_text="Signals")
    rows = dict(tuple(row.locator("th, td").all_inner_texts()) for row in table.locator("tbody tr").all())
    assert rows["edges 0.93 px wide at 512 px"] == "softer than all others"
    assert rows["1.2 % of the middle is clipped to white"] == "like all others"
    assert rows["sharpest place"] == "not measured"
    assert len(rows) == len(SIGNALS) - 1  # no photo has JPEG blocks
    box = detail.locator(".sharpest rect").last
    image = thumbnail(4)
    assert [float(str(box.get_attribute(name))) for name in ("x", "y", "width", "height")] == pytest.approx(
        [0.51 * image[2] - 1.5, 0.265 * image[3] - 1.5, 3, 3]
    )
    expect(detail.locator("figcaption")).to_contain_text("51 % from the left, 27 % from the top")
    assert detail.get_by_role("link", name="Open the original").get_attribute("href") == "../../photos/5.jpg"
    page.keyboard.press("ArrowRight")
    expect(detail.locator("ul.flags li")).to_have_text("soft (hint): edges 0.70 px wide at 512 px, limit 0.6")
    expect(table).to_contain_text("softer than 20 of 21")
    assert detail.locator(".sharpest").count() == 0


CHOICES = {"day": ("2036-05-17", ""), "folder": ("day 9", ""), "camera": ("FUJIFILM X-T3", "Canon EOS R6")}


def test_photos_are_filtered_by_capture(view: Open) -> None:
    given = in_folders()
    page = view(sheet(given))
    for origin, (keep, other) in {**CHOICES, "lens": ("", "RF 35mm"), "iso": ("3200", "")}.items():

        def key_of(item: dict[str, Any], origin: str = origin) -> str:
            value = ORIGINS["taken" if origin == "day" else origin](item)
            text = "" if value is None else str(value)
            return {"day": text[:10], "folder": item["path"].rpartition("/")[0]}.get(origin, text)

        page.click(f"#{origin}-origin summary")
        values = page.locator(f"#{origin}-values")
        counts = Counter(map(key_of, given))
        shown = {button.get_attribute("value"): button.inner_text() for button in values.locator("button").all()}
        assert {text: int(line.split()[-1]) for text, line in shown.items()} == counts
        values.locator(f"button[value='{keep}']").click()
        assert set(names(page)) == expected(given, lambda item: key_of(item) == keep)  # noqa: B023
        wait_for(page, f"location.hash.includes('{origin}=')")
        again = view(sheet(given), urlsplit(page.url).fragment, beside=page)
        assert names(again) == names(page)
        expect(again.locator(f"#{origin}-origin")).to_have_attribute("open", "")
        again.close()
        values.locator(f"button[value='{other}']").click()
        assert set(names(page)) == expected(given, lambda item: key_of(item) in (keep, other))  # noqa: B023
        page.locator(".chip").first.click()
        assert len(names(page)) == counts[other]
        page.locator(".chip").first.click()


def test_an_error_of_all_photos_is_shown_once(view: Open) -> None:
    given = [degraded(n, "clip_iqa", "image_embedding", labels=[], margin=None) for n in range(5)] + [failed(5)]
    given[3]["errors"].append(["noise", "flat_image", "no detail"])
    given[3]["scores"][2] = None
    page = view(sheet(given))
    expect(page.locator("#shared")).to_contain_text(re.compile(r"CLIP-IQA, image embedding and labels.*models pull"))
    expect(page.locator("#summary")).to_have_text("6 photos: 1 failed, 1 degraded, 4 measured")
    assert page.locator(".badge").all_inner_texts() == ["failed", "degraded"]
    assert page.locator(".why").all_inner_texts() == [REASONS["truncated"], f"noise: {REASONS['flat_image']}"]
    assert names(page)[:2] == ["IMG_6.jpg", "IMG_4.jpg"]
    assert "degraded" not in str(card(page, 2).get_attribute("aria-label"))
    assert page.locator("#reasons button").all_inner_texts() != []
    assert "weights" not in page.locator("#reasons").inner_text()
    assert page.locator(".histogram h3").all_inner_texts() == ["sharpness", "exposure", "noise", "BRISQUE"]
    assert card(page, 2).locator(".score").count() == 4
    page.click("#statuses button[value=degraded]")  # the status itself does not change
    assert len(names(page)) == 5
    card(page, 1).click()
    expect(page.locator("#detail dt", has_text="Status").locator("+ dd")).to_have_text("degraded")
    expect(page.locator("#detail .errors li")).to_have_count(2)
    page.keyboard.press("Escape")
    page.click("#open-export")
    assert [row["status"] for row in exported(page)] == ["degraded"] * 5


def test_an_error_of_some_photos_stays_on_the_cards(view: Open) -> None:
    for given in ([*(degraded(n, "clip_iqa") for n in range(4)), photo(4)], [degraded(0, "clip_iqa")]):
        page = view(sheet(given))
        expect(page.locator("#shared")).to_be_hidden()
        assert page.locator(".badge").count() == page.locator(".why").count() == min(4, len(given))


def test_each_filter_keeps_matching_photos(view: Open) -> None:
    given = photos()
    page = view(sheet(given))

    def shows(keep: Callable[[dict[str, Any]], bool]) -> None:
        assert set(names(page)) == expected(given, keep)
        number = len(names(page))
        expect(page.locator("#count")).to_have_text(f"{number} of 24 photos")
        page.locator(".chip").last.click()
        assert len(names(page)) == 24

    page.fill("#text", "mg_1 JPG")
    shows(lambda item: "IMG_1" in item["name"])
    page.click("#statuses button[value=degraded]")
    page.click("#statuses button[value=failed]")
    shows(lambda item: item["status"] != "ok")
    page.get_by_role("button", name=f"CLIP-IQA: {REASONS['missing_weights']}").click()
    shows(lambda item: any(stage == "clip_iqa" for stage, _, _ in item["errors"]))
    page.click("#labels button[value=beach]")
    shows(lambda item: confidence(item, "beach", 1) >= 0)
    page.click("#labels button[value=beach]")
    page.click("#labels button[value=night]")
    shows(lambda item: max(confidence(item, label, 1) for label in ("beach", "night")) >= 0)
    page.fill("#confidence", "0.4")
    shows(lambda item: bool(item["labels"]) and item["labels"][0][1] >= 0.4)
    page.check("input[value=any]", force=True)
    page.click("#labels button[value=beach]")
    shows(lambda item: confidence(item, "beach", 5) >= 0)
    page.fill("#confidence", "0.1")
    page.click("#labels button[value=macro]")
    shows(lambda item: confidence(item, "macro", 5) >= 0.1)
    page.get_by_label("Least sharpness").fill("0.6")
    page.get_by_label("Most noise").fill("0.2")
    shows(lambda item: (item["scores"][0] or 0) >= 0.6 and item["scores"][2] is not None and item["scores"][2] <= 0.2)


def test_counts_equal_the_result_of_a_click(view: Open) -> None:
    given = photos()
    page = view(sheet(given), "range=sharpness:0.5-1")
    sharp = [item for item in given if (item["scores"][0] or 0) >= 0.5]

    def read_counts() -> dict[str | None, int]:
        buttons = page.locator("#labels button").all()
        return {b.get_attribute("value"): int(b.locator(".count").inner_text()) for b in buttons}

    counts = read_counts()
    assert sum(counts.values()) == sum(bool(item["labels"]) for item in sharp)
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    label, number = next(iter(counts.items()))
    page.locator(f"#labels button[value='{label}']").click()
    assert len(names(page)) == number
    assert page.locator(f"#labels button[value='{label}']").get_attribute("aria-pressed") == "true"
    assert read_counts() == counts


def bars(page: Page, layer: str, metric: int) -> dict[int, float]:
    """Heights of the bars of a histogram by bin."""
    path = page.locator(f".histogram path.{layer}").nth(metric).get_attribute("d") or ""
    return {int(float(x)): 1 - float(top) for x, top in re.findall(r"M([\d.]+) 1V([\d.]+)", path)}


def test_histograms_compare_shown_with_all(view: Open) -> None:
    given = photos()
    page = view(sheet(given), "text=img_1")
    some = [item for item in given if item["name"].startswith("IMG_1")]
    for metric in range(len(METRICS)):
        scores = {layer: [item["scores"][metric] for item in of] for layer, of in (("all", given), ("some", some))}
        bins = {layer: Counter(int(score * 32) for score in of if score is not None) for layer, of in scores.items()}
        highest = max(bins["all"].values())
        for layer, counts in bins.items():
            assert bars(page, layer, metric) == {place: pytest.approx(n / highest) for place, n in counts.items()}
    assert page.locator(".ends").all_inner_texts()[0].split() == ["0", "2", "not", "measured", "1", "best"]
    assert page.locator(".ends").all_inner_texts()[2].split() == ["0", "best", "3", "not", "measured", "1"]


def test_a_range_is_selected_with_the_mouse(view: Open) -> None:
    given = photos()
    page = view(sheet(given))
    box = page.locator(".plot").nth(1).bounding_box()
    assert box
    at = lambda share: (box["x"] + share * box["width"], box["y"] + 10)  # noqa: E731
    page.mouse.move(*at(0.8))
    page.mouse.down()
    page.mouse.move(*at(0.6))
    page.mouse.move(*at(0.5))
    page.mouse.up()
    low, high = (float(page.get_by_label(f"{end} exposure").input_value()) for end in ("Least", "Most"))
    assert (low, high) == (pytest.approx(0.5, abs=0.011), pytest.approx(0.8, abs=0.011))
    assert set(names(page)) == expected(given, lambda item: low <= (item["scores"][1] or -1) <= high)
    expect(page.locator(".brush").nth(1)).to_be_visible()
    page.mouse.click(*at(0.3))
    assert len(names(page)) == 24
    expect(page.locator(".brush").nth(1)).to_be_hidden()


def test_a_range_is_selected_with_the_keyboard(view: Open) -> None:
    given = photos()
    page = view(sheet(given))
    low = page.get_by_label("Least BRISQUE")
    low.focus()
    for _ in range(6):
        page.keyboard.press("PageUp")
    page.keyboard.press("ArrowRight")
    chosen = float(low.input_value())
    assert 0.3 < chosen < 1
    assert set(names(page)) == expected(given, lambda item: (item["scores"][4] or 0) >= chosen)
    page.keyboard.press("End")  # a handle stops at the other one
    assert low.input_value() == page.get_by_label("Most BRISQUE").input_value() == "1"
    page.keyboard.press("Home")
    assert len(names(page)) == 24


def expect_active(page: Page, place: int) -> None:
    """The photo at a place, from 1, has the focus, or gets it soon: a dialog returns it after it was closed."""
    photo = page.locator(f".card[aria-posinset='{place}']")
    expect(photo).to_be_focused()
    expect(photo).to_have_attribute("tabindex", "0")
    assert page.locator(".card[tabindex='0']").count() == 1  # the only one in the tab order


def test_the_keyboard_moves_and_marks(view: Open) -> None:
    page = view(sheet(photos()), "sort=position", viewport={"width": 1300, "height": 900})
    page.locator("#mark-shown").focus()
    page.keyboard.press("Tab")
    expect_active(page, 1)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    columns = page.evaluate("new Set([...document.querySelectorAll('.card')].map((card) => card.offsetLeft)).size")
    assert columns >= 3
    steps = [("ArrowRight", 2), ("ArrowDown", 2 + columns), ("ArrowLeft", 1 + columns), ("ArrowUp", 1), ("ArrowUp", 1)]
    for key, place in (*steps, ("End", 24), ("ArrowRight", 24), ("Home", 1)):
        page.keyboard.press(key)
        expect_active(page, place)
    page.keyboard.press("PageDown")
    expect(page.locator(".card:focus")).not_to_have_attribute("aria-posinset", "1")
    assert int(str(page.locator(".card:focus").get_attribute("aria-posinset"))) > columns
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    assert marked(page) == [1]
    page.keyboard.press("ArrowRight")
    for _ in range(2):
        page.keyboard.press("Shift+ArrowRight")
    assert marked(page) == [1, 2, 3, 4]
    page.keyboard.press("Space")
    assert marked(page) == [1, 2, 3]
    page.keyboard.press("End")
    expect(page.locator(".card[aria-posinset='24']")).to_be_in_viewport()
    page.keyboard.press("Control+a")
    expect(page.locator("#marked-count")).to_have_text("24")
    page.click("#clear-marks")
    expect(page.locator("#marked-count")).to_have_text("0")


def address_of(page: Page, marks: int) -> str:
    """The fragment of the address, once it has this number of marks."""
    wait_for(page, rf"/\bmarks=.{{{8 * marks}}}$/.test(location.hash)")
    return urlsplit(page.url).fragment


def test_marks_survive_a_reload_right_after_the_click(view: Open) -> None:
    page = view(sheet(photos()))
    mark(page, 3)
    wait_for(page, "location.hash.includes('marks=')")
    page.evaluate("document.querySelectorAll('.ring')[9].click(); location.reload()")
    expect(page.locator("#marked-count")).to_have_text("2")
    page.evaluate("document.querySelectorAll('.ring')[9].click(); location.reload()")
    expect(page.locator("#marked-count")).to_have_text("1")


def test_marks_stay_with_their_photos(view: Open) -> None:
    given = [photo(n) for n in range(12)]
    page = view(sheet(given))
    mark(page, 2, 5, 9)
    address = address_of(page, marks=3)
    longer = [item | {"position": place} for place, item in enumerate([photo(50), *given])]
    more = view(sheet(longer), beside=page)
    assert marked(more) == [3, 6, 10]  # one place later
    assert marked(view(sheet(longer), address)) == marked(more)
    fewer = view(sheet([item for item in given if item["id"] != "id-4"]), beside=page)
    assert marked(fewer) == [2, 8]
    mark(fewer, 1)
    back = view(sheet(given), beside=page)
    assert marked(back) == [1, 2, 5, 9]
    assert marked(view(sheet(given, batch_id="other"), beside=page)) == []


def test_copies_of_one_photo_are_marked_one_by_one(view: Open) -> None:
    given = [photo(n, id="same", path=f"{n}/IMG_{n + 1}.jpg") for n in range(3)]
    page = view(sheet(given))
    mark(page, 2)
    assert marked(page) == [2]
    assert marked(view(sheet(given), beside=page)) == [2]


def test_two_pages_of_a_batch_share_their_marks(view: Open) -> None:
    given = photos()
    first = view(sheet(given))
    second = view(sheet(given), beside=first)
    mark(first, 1)
    expect(second.locator("#marked-count")).to_have_text("1")
    mark(second, 2)
    expect(first.locator("#marked-count")).to_have_text("2")
    first.keyboard.press("Control+z")
    expect(second.locator("#marked-count")).to_have_text("1")
    assert marked(second) == [1]


def test_pages_without_storage_events_lose_no_mark(view: Open) -> None:
    deaf = "addEventListener('storage', (event) => event.stopImmediatePropagation(), true);"
    given = photos()
    first = view(sheet(given), script=deaf)
    second = view(sheet(given), beside=first)
    mark(first, 1)
    assert marked(second) == []
    mark(second, 2)
    mark(first, 3)
    assert marked(first) == marked(view(sheet(given), beside=first)) == [1, 2, 3]


def test_marks_of_an_address_replace_stored_marks(view: Open) -> None:
    given = photos()
    sender = view(sheet(given))
    mark(sender, 1, 2)
    address = address_of(sender, marks=2)
    page = view(sheet(given))
    mark(page, 2, 5, 6)
    address_of(page, marks=3)
    page.evaluate("(address) => location.hash = address", address)
    expect(page.locator("#told")).to_contain_text("2 marks")
    assert marked(page) == [1, 2]
    mark(page, 7)  # from here on they are stored marks
    page.reload()
    assert marked(page) == [1, 2, 7]
    again = view(sheet(given), beside=page)
    for _ in range(2):
        again.click("#undo")
    assert marked(again) == [2, 5, 6]
    earlier = view(sheet(given), address, beside=page)  # the same address again: stored marks are newer
    expect(earlier.locator("#told")).to_contain_text("stored marks are newer")
    assert marked(earlier) == [2, 5, 6]
    earlier.get_by_role("button", name="Use the earlier marks").click()
    assert marked(earlier) == [1, 2]
    earlier.get_by_role("button", name="Undo").last.click()
    assert marked(earlier) == [2, 5, 6]
    silent = view(sheet(given), address)
    assert marked(silent) == [1, 2]
    expect(silent.locator("#toast")).to_be_hidden()


def test_an_earlier_address_is_known_with_fewer_photos(view: Open) -> None:
    given = [photo(n) for n in range(6)]
    sender = view(sheet(given))
    mark(sender, 2, 5)
    address = address_of(sender, marks=2)
    page = view(sheet(given[:4]), address)
    assert marked(page) == [2]
    mark(page, 1)
    assert marked(view(sheet(given[:4]), address, beside=page)) == [1, 2]


def test_an_address_without_marks_keeps_stored_marks(view: Open) -> None:
    page = view(sheet(photos()))
    mark(page, 3)
    page.evaluate("location.hash = 'status=ok'")
    expect(page.locator("#count")).to_have_text("18 of 24 photos")
    assert marked(page) == [3]


REFUSED = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }});"


def test_without_storage_the_address_has_the_marks(view: Open) -> None:
    given = photos()
    page = view(sheet(given), script=REFUSED)
    expect(page.locator("#toast")).to_be_hidden()
    mark(page, 3)
    expect(page.locator("#told")).to_contain_text("This browser cannot store marks")
    mark(page, 7)
    address_of(page, marks=2)
    page.reload()
    assert marked(page) == [3, 7]
    page.click("#undo")
    assert marked(page) == []
    assert marked(view(sheet(given), beside=page)) == []


def test_a_full_or_damaged_storage_loses_no_mark(view: Open) -> None:
    given = photos()
    page = view(sheet(given), **SEPARATE)
    page.evaluate(
        "for (let size = 2 ** 22; size; size >>= 1)"
        " try { for (let n = 0; ; n++) localStorage.setItem(`${size} ${n}`, 'x'.repeat(size)); } catch {}"
    )
    mark(page, 3)
    expect(page.locator("#told")).to_contain_text("This browser cannot store marks")
    wait_for(page, "location.hash.includes('marks=')")
    page.reload()
    assert marked(page) == [3]
    page.evaluate("localStorage.clear()")
    mark(page, 7)
    assert marked(view(sheet(given), beside=page)) == [3, 7]
    damaged = ['{"marks": "%%%", "steps": 4}', '{"marks": [], "steps": [[[], "<b>"]], "undone": []}']
    for damage in ("", "{", "7", "null", *damaged):
        page.evaluate("(text) => { for (const key in localStorage) localStorage[key] = text; }", damage)
        opened = view(sheet(given), beside=page)
        mark(opened, 1)
        assert marked(opened) == [1]
        opened.click("#undo")
        expect(opened.locator("#undo")).to_be_disabled()
        opened.close()


def test_every_change_of_marks_is_undone_and_redone(view: Open) -> None:
    page = view(sheet(photos()), "sort=position")
    expect(page.locator("#undo")).to_be_disabled()
    expect(page.locator("#redo")).to_be_hidden()
    cards = page.locator(".card")
    states: list[list[int]] = [[]]
    for change in (
        lambda: mark(page, 3),
        lambda: cards.nth(6).click(modifiers=["Shift"]),
        lambda: mark(page, 5),
        lambda: page.keyboard.press("Shift+ArrowRight"),
        lambda: page.click("#mark-shown"),
        lambda: page.click("#clear-marks"),
    ):
        change()
        states.append(marked(page))
        assert states[-1] != states[-2]
    assert [len(state) for state in states] == [0, 1, 5, 4, 5, 24, 0]
    page.click("#undo")
    assert marked(page) == states[5]
    cards.first.focus()
    for state in states[4::-1]:
        page.keyboard.press("Control+z")
        assert marked(page) == state
    expect(page.locator("#undo")).to_be_disabled()
    page.keyboard.press("Control+z")
    for state in states[1:]:
        page.keyboard.press("Control+Shift+Z")
        assert marked(page) == state
    expect(page.locator("#redo")).to_be_hidden()
    page.keyboard.press("Meta+z")
    assert marked(page) == states[5]
    mark(page, 1)  # a new change clears the redo steps
    page.keyboard.press("Control+Shift+Z")
    assert marked(page) == states[5][1:]


def test_marking_many_is_reported_with_undo(view: Open) -> None:
    page = view(sheet(photos()))
    mark(page, 1)
    expect(page.locator("#toast")).to_be_hidden()
    page.click("#mark-shown")
    expect(page.locator("#told")).to_have_text("23 photos marked.")
    page.click("#toast-action")
    expect(page.locator("#told")).to_have_text("Undone: 23 photos unmarked.")
    assert len(marked(page)) == 1
    page.click("#mark-shown")
    page.click("#clear-marks")
    expect(page.locator("#told")).to_have_text("24 photos unmarked.")
    page.click("#toast-close")
    expect(page.locator("#toast")).to_be_hidden()
    assert page.locator(".toolbar #clear-marks").count() == 0  # not next to the button that marks all


def test_steps_of_another_batch_of_the_same_name_stay(view: Open) -> None:
    here = view(sheet(photos()))
    mark(here, 3)
    other = view(sheet([photo(n, id=f"other-{n}") for n in range(5)]), beside=here)
    expect(other.locator("#undo")).to_be_disabled()
    other.keyboard.press("Control+z")
    other.click("#mark-shown")
    other.click("#clear-marks")
    again = view(sheet(photos()), beside=here)
    assert marked(again) == [3]
    again.click("#undo")
    assert marked(again) == []


def test_undo_in_the_search_field_edits_text(view: Open) -> None:
    page = view(sheet(photos()))
    mark(page, 3)
    page.locator("#text").press_sequentially("IMG_3")
    page.keyboard.press("Control+z")
    assert page.input_value("#text") != "IMG_3"
    assert marked(page) == [3]


def test_marks_are_saved_to_a_file_and_loaded(view: Open, tmp_path: Path) -> None:
    given = [photo(n, path=f"day/IMG_{n + 1}.jpg", **({"id": "same"} if n < 2 else {})) for n in range(9)]
    page = view(sheet(given))
    page.click("#open-export")
    expect(page.locator("#save-marks")).to_be_disabled()
    page.keyboard.press("Escape")
    mark(page, 2, 6)
    page.click("#open-export")
    with page.expect_download() as download:
        page.click("#save-marks")
    assert download.value.suggested_filename == "trip-marks.json"
    path = tmp_path / "marks.json"
    download.value.save_as(path)
    assert json.loads(path.read_text()) == {
        "batch_id": "trip",
        "marked": [{"photo_id": "same", "path": "day/IMG_2.jpg"}, {"photo_id": "id-5", "path": "day/IMG_6.jpg"}],
    }

    def load(file: Path, said: str) -> None:
        with other.expect_file_chooser() as chooser:
            other.click("#load-marks")
        chooser.value.set_files(file)
        expect(other.locator("#copied")).to_have_text(said)

    moved = [item | {"path": f"elsewhere/{item['name']}"} if item["position"] == 5 else item for item in given[:7]]
    other = view(sheet(moved))
    mark(other, 7)
    other.click("#open-export")
    load(path, "2 of 2 marks are of photos here")
    assert other.input_value("#list").split("\n") == ["day/IMG_2.jpg", "elsewhere/IMG_6.jpg", "day/IMG_7.jpg"]
    for number, text in enumerate(["", "[]", "{}", '{"marked": 3}', '{"marked": [null]}']):
        wrong = tmp_path / f"{number}.json"
        wrong.write_text(text)
        load(wrong, "not a file of marks")
    path.write_text('{"marked": [{"photo_id": "gone"}, {"photo_id": "id-2"}, {"photo_id": {}}]}')
    load(path, "1 of 3 marks are of photos here")
    other.keyboard.press("Escape")
    assert marked(other) == [2, 3, 6, 7]
    other.click("#undo")
    assert marked(other) == [2, 6, 7]


def test_keys_open_help_and_search_except_in_fields(view: Open) -> None:
    page = view(sheet(photos()))
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    for metric in METRICS:
        expect(page.locator("#help-scores")).to_contain_text(f"{metric.description} ({metric.best} is best)")
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("/")
    page.keyboard.type("?/")
    assert page.input_value("#text") == "?/"
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    page.keyboard.press("Escape")
    expect_active(page, 1)


def test_the_mouse_opens_and_marks(view: Open) -> None:
    page = view(sheet(photos()), "sort=position")
    cards = page.locator(".card")
    cards.nth(1).click()
    expect(page.locator("#detail")).to_be_visible()
    page.keyboard.press("Escape")
    mark(page, 7)
    cards.nth(2).click(modifiers=["Control"])
    assert marked(page) == [3, 7]
    cards.nth(5).click(modifiers=["Shift"])
    assert marked(page) == [3, 4, 5, 6, 7]
    mark(page, 7)
    assert marked(page) == [3, 4, 5, 6]
    page.check("#only-marked")
    assert len(names(page)) == 4
    mark(page, 6)
    assert len(names(page)) == 3
    expect_active(page, 3)
    page.click("#clear-marks")
    expect(page.locator("#nothing")).to_be_visible()


def test_details_show_all_values(view: Open) -> None:
    given = photos()
    page = view(sheet(given), "sort=position")
    card(page, 4).click()
    detail = page.locator("#detail")
    expect(page.locator("#detail-name")).to_have_text("IMG_5.jpg")
    expect(page.locator("#detail-place")).to_have_text("5 of 24")
    item = given[4]
    rows = [row.all_inner_texts() for row in (row.locator("th, td") for row in detail.locator("tbody tr").all())]
    assert [row for row in rows if row[0] in {label for label, _, _ in item["labels"]}] == [
        [label, f"{share * 100:.1f} %", f"{cosine:.3f}"] for label, share, cosine in item["labels"]
    ]
    scores = {row[0]: row[1:] for row in rows}
    for place, metric in enumerate(METRICS):
        score, rank = scores[f"{NAMES.get(metric.name, metric.name)} {metric.best} is best"]
        measured = [good for other in given if (good := goodness(other, place)) is not None]
        worse = sum(good < (goodness(item, place) or 0) for good in measured)
        assert score == f"{item['scores'][place]:.3f}"
        assert int(re.findall(r"\d+", rank)[0]) == pytest.approx(100 * worse / (len(measured) - 1), abs=0.51)
    assert scores["tenengrad"] == ["1,239", "gray level squared"]
    assert scores["noise sigma"] == ["0.0041", "share of full scale"]
    assert "overall" not in scores
    for title, text in [*item["facts"], ["Analysed at", "4,032 \u00d7 3,024 px, JPEG"], ["Id", "id-4"]]:
        expect(detail.locator("dt", has_text=re.compile(f"^{title}$")).locator("+ dd")).to_have_text(text)
    link = detail.get_by_role("link", name="Open the picture")
    assert link.get_attribute("href") == "../rankingInput/4_1024.jpg"
    assert "noopener" in str(link.get_attribute("rel"))
    wait_for(page, "document.querySelector('#detail img').naturalWidth > 0")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#detail-name")).to_have_text("IMG_4.jpg")
    expect(detail.locator(".errors")).to_contain_text(f"noise: {REASONS['flat_image']}")
    expect(detail.locator(".errors")).to_contain_text("noise: the weights are not here")


def test_details_move_mark_and_restore_the_focus(view: Open) -> None:
    page = view(sheet(photos()), "sort=position")
    card(page, 22).focus()
    page.keyboard.press("Enter")
    assert page.locator("#detail").get_attribute("open") is not None
    expect(page.locator("#detail-name")).to_have_text("IMG_1.jpg")  # focus() does not move the active photo
    page.keyboard.press("Escape")
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator("#detail-name")).to_have_text("IMG_23.jpg")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#detail-name")).to_have_text("IMG_24.jpg")
    expect(page.locator("#next")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    page.check("#detail-mark")
    page.keyboard.press("Escape")
    expect_active(page, 24)
    assert marked(page) == [24]


def test_space_marks_in_the_details_and_does_not_close_them(view: Open) -> None:
    page = view(sheet(photos()), "sort=position")
    card(page, 4).click()
    page.keyboard.press("Space")
    expect(page.locator("#detail")).to_be_visible()
    expect(page.locator("#detail-mark")).to_be_checked()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.click("#next")
    page.keyboard.press("Space")
    page.keyboard.press("Space")
    page.keyboard.press("Space")
    page.keyboard.press("Control+z")
    expect(page.locator("#detail-mark")).not_to_be_checked()
    page.keyboard.press("Control+Shift+Z")
    expect(page.locator("#detail-mark")).to_be_checked()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.locator("#previous").focus()  # a focused button keeps its action
    page.keyboard.press("Space")
    expect(page.locator("#detail-name")).to_have_text("IMG_23.jpg")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    page.check("#detail-mark")
    page.keyboard.press("Space")
    expect(page.locator("#detail-mark")).not_to_be_checked()
    page.keyboard.press("Space")
    expect(page.locator("#detail")).to_be_visible()
    page.keyboard.press("Escape")
    assert marked(page) == [5, 6, 7, 22, 24]


def test_marked_photos_are_copied_and_downloaded(view: Open) -> None:
    given = photos()
    given[2] |= {"name": "=cmd|' /C calc'!A0.jpg", "id": '+1,"2"\r\n3'}
    given[5] |= {"name": " @sum(1)", "id": "-5"}
    given[11]["id"] = "\uff1d1"  # full-width equals sign
    page = view(sheet(given), "sort=position", permissions=["clipboard-read", "clipboard-write"])
    mark(page, 6, 3, 12)
    page.click("#open-export")
    page.check("input[value=name]", force=True)
    assert page.input_value("#list").split("\n") == ["'=cmd|' /C calc'!A0.jpg", "' @sum(1)", "IMG_12.jpg"]
    page.check("input[value=id]", force=True)
    page.click("#copy")
    expect(page.locator("#copied")).to_have_text("3 photos copied")
    assert page.evaluate("navigator.clipboard.readText()") == "'+1,\"2\"\ufffd\ufffd3\n'-5\n'\uff1d1"
    rows = exported(page)
    assert page.downloaded == "trip-marked.csv"
    assert [row["name"] for row in rows] == ["'=cmd|' /C calc'!A0.jpg", "' @sum(1)", "IMG_12.jpg"]
    assert [row["id"] for row in rows] == ['\'+1,"2"\r\n3', "'-5", "'\uff1d1"]
    assert [float(rows[0][name]) for name in METRIC_NAMES] == given[2]["scores"]
    assert "overall" not in rows[0]
    assert (rows[0]["place"], rows[0]["status"], rows[0]["marked"]) == ("3", "ok", "1")
    assert [[rows[0][f"label_{i}"], float(rows[0][f"confidence_{i}"])] for i in range(1, 6)] == [
        label[:2] for label in given[2]["labels"]
    ]
    assert {rows[2][name] for name in (*METRIC_NAMES, "label_1", "confidence_1")} == {""}


def listed(page: Page, what: str) -> str:
    """The list of shown photos in a format."""
    page.check(f"input[value={what}]", force=True)
    return page.input_value("#list")


def test_photos_of_one_name_are_distinguished(view: Open) -> None:
    given = [photo(n, name="IMG_0001.JPG", path=f"{100 + n}CANON/IMG_0001.JPG") for n in range(2)]
    page = view(sheet([*given, photo(2, name="top.jpg")]), "sort=position")
    cards = page.locator(".card")
    for number in range(2):
        expect(cards.nth(number).locator(".name")).to_have_text(f"IMG_0001.JPG {100 + number}CANON")
        expect(cards.nth(number)).to_have_attribute("aria-label", re.compile(f"folder {100 + number}CANON"))
    expect(cards.nth(2).locator(".name")).to_have_text("top.jpg")
    page.click("#open-export")
    assert listed(page, "path") == "100CANON/IMG_0001.JPG\n101CANON/IMG_0001.JPG\ntop.jpg"
    assert listed(page, "quoted") == "'100CANON/IMG_0001.JPG'\n'101CANON/IMG_0001.JPG'\n'top.jpg'"
    rows = exported(page)
    assert [row["path"] for row in rows] == [*(item["path"] for item in given), "top.jpg"]
    page.keyboard.press("Escape")
    page.fill("#text", "101c jpg")
    assert page.locator(".card").count() == 1
    cards.nth(0).click()
    expect(page.locator("#detail dt", has_text="Path").locator("+ dd")).to_have_text("101CANON/IMG_0001.JPG")


PRINTABLE = [
    'a b/c\'s "d".jpg',
    "-rf.jpg",
    "$(x) `y` \\ ! ~ * ? # & ; | < > { [ =.jpg",
    "caf\u00e9 \U0001f680.jpg",
    "=1.jpg",
    "''",
]
BYTES = [bytes([byte, *b"0'\\.jpg"]) for byte in {*range(1, 256)} - {ord("/")}]


def arguments(program: list[str], given: str) -> list[bytes]:
    """The arguments that a program reads from a list."""
    found = subprocess.run(program, input=given.encode(), capture_output=True, check=True)
    assert found.stderr == b""
    return found.stdout.split(b"\0")[:-1]


def test_a_shell_reads_quoted_paths_unchanged(view: Open) -> None:
    shell = """eval "set -- $(tr '\\n' ' ')"; printf '%s\\0' "$@" """
    plain = [path.encode() for path in PRINTABLE]
    given = [photo(n, path=os.fsdecode(path)) for n, path in enumerate([*plain, *BYTES])]
    page = view(sheet(given), "sort=position")
    page.click("#open-export")
    text = listed(page, "quoted")
    assert text.count("\n") == len(plain) + len(BYTES) - 1
    wanted = [b"./" + path if path.startswith(b"-") else path for path in plain + BYTES]  # not an option
    assert arguments(["bash", "-c", shell], text) == wanted
    lines = "\n".join(text.split("\n")[: len(plain)])
    for program in (["sh", "-c", shell], ["xargs", "printf", "%s\\0"]):
        assert arguments(program, lines) == wanted[: len(plain)]
    assert not re.search("(?m)^[=+@-]", text)


def test_without_marks_shown_photos_are_listed(view: Open) -> None:
    page = view(sheet(photos()), "sort=noise&turned=1&status=ok")
    shown = names(page)
    page.click("#open-export")
    expect(page.locator("input[value=marked]")).to_be_disabled()
    assert page.input_value("#list").split("\n") == shown
    rows = exported(page)
    assert [row["name"] for row in rows] == shown


def test_the_address_restores_the_view(view: Open) -> None:
    given = sheet(photos())
    page = view(given)
    page.select_option("#sort", "noise")
    page.select_option("#direction", "1")
    page.fill("#text", "img &=#\u00e9")
    page.fill("#text", "img")
    page.check("input[value=any]", force=True)
    page.click("#labels button[value='street photography']")
    page.fill("#confidence", "0.05")
    page.get_by_label("Least exposure").fill("0.3")
    page.click("#statuses button[value=ok]")
    card(page, 1).locator(".ring").click()
    wait_for(page, "location.hash.includes('marks=')")
    shown, marks = names(page), marked(page)
    assert len(shown) > 2
    again = view(given, urlsplit(page.url).fragment)
    assert (names(again), marked(again)) == (shown, marks)
    assert [again.input_value(f"#{name}") for name in ("sort", "direction", "text")] == ["noise", "1", "img"]
    assert again.locator(".chip").all_inner_texts() == page.locator(".chip").all_inner_texts()
    again.locator(".chip.all").click()
    again.click("#clear-marks")
    wait_for(again, "!/text|marks/.test(location.hash)")
    assert parse_qs(urlsplit(again.url).fragment) == {"sort": ["noise"], "turned": ["1"], "labels": ["any"]}
    again.evaluate("location.hash = 'status=failed'")
    expect(again.locator("#count")).to_have_text("2 of 24 photos")


def test_an_invalid_address_is_ignored(view: Open) -> None:
    given = photos()
    page = view(sheet(given))
    page.keyboard.press("/")
    mark(page, 1)
    wait_for(page, "location.hash.includes('marks=')")
    other = [item | {"id": f"other-{item['position']}"} for item in given]
    assert marked(view(sheet(other), urlsplit(page.url).fragment)) == []
    ranges = "range=sharpness:9-a&range=nope:0-1&range=noise:0.9-0.1"
    nonsense = f"sort=__proto__&status=x&{ranges}&confidence=NaN&marks=%00.!&%"
    assert len(names(view(sheet(given), nonsense))) == 24
    strange = view(sheet(given), "label=%3Cimg%20src%3Dx%3E&reason=%5B&text=%3Cb%3E")
    expect(strange.locator(".chip").nth(0)).to_have_text("name: <b>")
    expect(strange.locator("#nothing")).to_be_visible()
    strange.click("#clear-filters")
    assert len(names(strange)) == 24


def test_hostile_texts_are_plain_text(view: Open) -> None:
    given = []
    for number, text in enumerate(HOSTILE):
        labels, made = [[text, 0.6, 0.2], ["<b>bold</b>", 0.2, 0.1]], {"labels": [], "thumbnail": thumbnail(number)}
        made |= {**dict.fromkeys(("name", "id", "format"), text), "labels": labels, "facts": [[text, text]]}
        made |= {"flags": [[text, text]], "hints": [[text, text]]}
        given.append(photo(number, status="degraded", errors=[[text, text, text]], href=None, **made))
    version = {"technical": HOSTILE[0], "clip": HOSTILE[3]}
    page = view(sheet(given, labels=HOSTILE, batch_id=HOSTILE[0], digest=HOSTILE[1], version=version))
    inside = [re.sub(r"[\x00-\x1f\u2028\u202e\u2066]", "\ufffd", text) for text in HOSTILE]
    assert names(page) == inside
    mark(page, *range(1, len(HOSTILE) + 1))
    for group in ("#labels", "#reasons"):
        for number in range(len(HOSTILE)):
            page.locator(f"{group} button").nth(number).click()
    assert page.locator(".chip").count() == 2 * len(HOSTILE) + 1
    page.locator(".chip.all").click()
    card(page, 0).click()
    for text in inside:
        expect(page.locator("#detail-name")).to_have_text(text)
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    page.click("#open-export")
    assert page.input_value("#list").split("\n")[2] == f"'{HOSTILE[2]}"
    page.keyboard.press("Escape")
    assert page.evaluate("document.querySelectorAll('img[src=x], b:not(.score b), script:not([type])').length") == 1
    assert page.title() == f"{HOSTILE[0]} - contact sheet"
    assert not re.search(r"[\x00-\x08\u202a-\u202e\u2066-\u2069]", page.evaluate("document.body.innerText"))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_policy_holds_on_an_altered_page(unwatched: Open) -> None:
    breach = (
        "<script>document.title='owned'</script><img src='http://127.0.0.1:9/a.png'>"
        "<link rel=stylesheet href='http://127.0.0.1:9/a.css'><p style='color:red' onclick='x()'>"
        "<iframe src='data:text/html,x'></iframe>"
    )
    page = unwatched(sheet(photos()), change=lambda text: text.replace("<body>", f"<body>{breach}"))
    wait_for(page, "window.breaches.length >= 5")
    assert page.title() == "trip - contact sheet"
    assert len(names(page)) == 24
    assert page.logged


def test_an_altered_script_is_not_run(unwatched: Open) -> None:
    page = unwatched(sheet(photos()), change=lambda text: text.replace('"use strict";', '"use strict"; '))
    assert page.evaluate("[document.documentElement.dataset.ready ?? null, window.breaches]") == [None, ["inline"]]


def test_of_two_thousand_photos_few_cards_are_built(view: Open) -> None:
    picture = thumbnail(1)
    page = view(sheet(many(2000, thumbnail=picture)), viewport={"width": 1300, "height": 900})
    expect(page.locator("#count")).to_have_text("2,000 photos")
    assert 10 < page.locator(".card").count() < 120
    assert names(page)[0] == "IMG_10.jpg"
    page.select_option("#sort", "position")
    page.locator(".card").first.focus()
    page.keyboard.press("End")
    expect(page.locator(".card[aria-posinset='2000']")).to_be_in_viewport()
    expect(page.locator(".card[aria-posinset='2000'] .name")).to_have_text("IMG_2000.jpg")
    wait_for(page, "document.activeElement.querySelector('img').naturalWidth > 0")
    page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
    wait_for(page, "[...document.querySelectorAll('.card')].some((card) => card.ariaPosInSet === '1000')")
    assert page.locator(".card").count() < 120
    expect_active(page, 2000)  # out of sight, but kept
    page.fill("#text", "_1999")
    assert names(page) == ["IMG_1999.jpg"]
    assert page.evaluate("scrollY") == 0
    page.fill("#text", "")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+a")
    expect(page.locator("#marked-count")).to_have_text("2,000")
    wait_for(page, "location.hash.includes('marks=')")
    many_marks = view(sheet(many(2000)), urlsplit(page.url).fragment)
    expect(many_marks.locator("#marked-count")).to_have_text("2,000")
    assert len(page.url) < 2000 * 8 + 200


def test_all_photos_are_printed(view: Open) -> None:
    page = view(sheet(many(300)), viewport={"width": 1300, "height": 700})
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".card").count() == 300
    page.emulate_media(media="print")
    expect(page.locator("#filters")).to_be_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert card(page, 1).evaluate("(card) => getComputedStyle(card).position") == "static"
    page.emulate_media(media="screen")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator(".card").count() < 100


def test_an_empty_result_has_a_message(view: Open) -> None:
    nothing = view(sheet([], labels=[]))
    expect(nothing.get_by_text("This batch has no photos.")).to_be_visible()
    expect(nothing.locator("#filters")).to_be_hidden()
    expect(nothing.locator("#clear-filters")).to_be_hidden()
    none = view(sheet(photos()), "text=nowhere")
    expect(none.get_by_text("No photo matches these filters.")).to_be_visible()
    none.click("#clear-filters")
    assert len(names(none)) == 24
    bare = view(sheet([degraded(i, "clip_labels", "clip_iqa") for i in range(5)], labels=[]))
    expect(bare.get_by_text("No photo has labels.")).to_be_visible()
    expect(bare.locator("#confidence")).to_be_hidden()
    assert bare.locator("#sort option[value=confidence]").count() == 0
    assert len(names(bare)) == 5


def test_axe_finds_no_violation(view: Open) -> None:
    axe = Axe()
    page = view(sheet(flagged()), "sort=blur_px&status=ok&status=degraded&range=sharpness:0.2-1", **SEPARATE)
    card(page, 2).locator(".ring").click()

    def check(where: str) -> None:
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (background == "rgb(243, 243, 241)") == (scheme == "light")
            found = axe.run(page)
            assert found.violations_count == 0, f"{where}, {scheme}: {found.generate_report()}"

    page.click("#camera-origin summary")
    check("grid")
    page.click("#mark-shown")
    expect(page.locator("#toast")).to_be_visible()
    check("what was marked")
    card(page, 1).click()
    check("details")
    page.keyboard.press("Escape")
    page.click("#open-export")
    check("list")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    check("help")
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 360, "height": 740})
    page.click("#toggle-filters")
    check("narrow")


def test_a_phone_does_not_scroll_sideways(view: Open) -> None:
    long = [item | {"name": item["name"] * 30} for item in photos()]
    page = view(sheet(long), viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    fits = "document.documentElement.scrollWidth <= 360"
    assert page.evaluate(fits)
    expect(page.locator("#filters")).to_be_hidden()
    page.tap("#toggle-filters")
    expect(page.locator("#filters")).to_be_visible()
    assert page.evaluate(fits)
    page.tap("#statuses button[value=ok]")
    page.tap("#toggle-filters")
    card(page, 1).tap()
    expect(page.locator("#detail")).to_be_visible()
    assert page.evaluate("document.querySelector('#detail').scrollWidth <= 360")
    page.locator("#detail").get_by_role("button", name="Close").tap()
    page.tap("#mark-shown")
    assert page.evaluate(fits)
    assert page.evaluate("document.querySelector('#toast').getBoundingClientRect().right <= 360")
    page.tap("#open-export")
    assert page.evaluate("document.querySelector('#export .body').scrollWidth <= 360")


# --- Groups ---


def in_groups() -> list[dict[str, Any]]:
    """The photos; five are a burst, three copies of one picture, and three a bracket."""
    given = photos()

    def group(places: list[int], identity: str, kind: str, what: str = "") -> None:
        for rank, place in enumerate(places):
            is_set = kind == "set"
            given[place]["group"] = {
                "id": identity, "kind": kind, "what": what, "rank": 1 if is_set else rank + 1, "size": len(places),
                "similarity": 0.91, "copy_of": f"id-{places[0]}" if kind == "copy" and rank else None,
                "copy_of_path": given[places[0]]["path"] if kind == "copy" and rank else None,
                "reason": f"{identity} {rank} & <i>more</i>",
            }  # fmt: skip

    group([6, 4, 5, 7, 14], "burst-1", "burst")
    group([10, 12, 13], "copies-1", "copy")
    group([17, 18, 19], "set-1", "set", "bracket")
    return given


def decisions(page: Page) -> dict[str, list[int]]:
    """The photos to keep and to reject, in the order of the batch, as the page saves them."""
    page.click("#open-export")
    with page.expect_download() as download:
        page.click("#save-marks")
    page.keyboard.press("Escape")
    found = json.loads(download.value.path().read_text())
    return {name: sorted(int(item["photo_id"][3:]) for item in found[name]) for name in ("keep", "reject")}


def go_to(page: Page, name: str) -> None:
    """Move the focus to the card of a photo."""
    page.locator(".card", has=page.get_by_text(name, exact=True)).click()
    page.keyboard.press("Escape")


def test_a_group_is_a_stack_with_its_best_photo(view: Open) -> None:
    page = view(sheet(in_groups()), "sort=position")
    expect(page.locator("#summary")).to_have_text(re.compile(r"; groups: 1 copy, 1 burst, 1 set$"))
    expect(page.locator("#count")).to_have_text("24 photos, 3 stacks")
    assert names(page)[3:8] == ["IMG_4.jpg", "IMG_7.jpg", "IMG_9.jpg", "IMG_10.jpg", "IMG_11.jpg"]
    assert page.locator(".stack .group-badge").all_inner_texts() == [
        "\u25b8 burst 5",
        "\u25b8 copies 3",
        "\u25b8 bracket 3",
    ]
    page.locator(".stack .group-badge").first.click()
    assert names(page)[4:9] == [f"IMG_{place + 1}.jpg" for place in (6, 4, 5, 7, 14)]
    assert page.locator(".opened .group-badge").nth(1).inner_text() == "\u25be burst rank 2 of 5"
    expect(card(page, 4)).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("s")
    expect(card(page, 4)).to_be_focused()
    expect(page.locator("#count")).to_have_text("24 photos, 3 stacks")
    page.click("#groups button[value=copy]")
    expect(page.locator("#count")).to_have_text("3 of 24 photos, 1 stack")
    page.uncheck("#stacks")
    assert names(page) == ["IMG_11.jpg", "IMG_13.jpg", "IMG_14.jpg"]
    wait_for(page, "/group=copy/.test(location.hash) && /stacks=0/.test(location.hash)")
    assert names(view(sheet(in_groups()), urlsplit(page.url).fragment, beside=page)) == names(page)
    page.click("#mark-shown")
    assert marked(page) == [11, 13, 14]


def test_one_key_keeps_one_and_rejects_the_rest(view: Open) -> None:
    given = in_groups()
    page = view(sheet(given), "sort=position")
    go_to(page, "IMG_7.jpg")
    page.keyboard.press("b")
    expect(page.locator("#told")).to_have_text("1 photo kept, 4 photos rejected.")
    expect(card(page, 4).locator(".decided")).to_have_text("1 kept, 4 rejected")
    assert decisions(page) == {"keep": [6], "reject": [4, 5, 7, 14]}
    go_to(page, "IMG_11.jpg")
    page.keyboard.press("s")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("b")  # another than the best
    assert decisions(page) == {"keep": [6, 12], "reject": [4, 5, 7, 10, 13, 14]}
    go_to(page, "IMG_18.jpg")
    page.keyboard.press("b")
    expect(page.locator("#told")).to_have_text("A set is kept whole (bracket): nothing was rejected.")
    page.keyboard.press("x")
    expect(page.locator("#decisions button[value=reject] .count")).to_have_text("7")
    page.keyboard.press("x")
    assert decisions(page) == {"keep": [6, 12], "reject": [4, 5, 7, 10, 13, 14]}
    page.reload()
    assert decisions(page) == {"keep": [6, 12], "reject": [4, 5, 7, 10, 13, 14]}
    page.click("#open-export")
    page.check("input[value=reject]", force=True)
    rows = exported(page)
    assert sorted(int(row["id"][3:]) for row in rows) == [4, 5, 7, 10, 13, 14]
    assert {(row["decision"], row["group_kind"]) for row in rows} == {("reject", "burst"), ("reject", "copy")}
    page.keyboard.press("Escape")
    for kept in ([6, 12], [6, 12], [6]):  # the two changes of one photo first
        page.keyboard.press("Control+z")
        assert decisions(page)["keep"] == kept
    page.keyboard.press("Control+Shift+z")
    page.click("#decisions button[value=reject]")
    assert len(names(page)) == 2  # stacks
    page.locator(".chip").click()
    page.click("#clear-decisions")
    expect(page.locator("#decisions button[value='keep'] .count")).to_have_text("0")


def test_decisions_are_loaded_from_a_file(view: Open, tmp_path: Path) -> None:
    page = view(sheet(in_groups()), "sort=position")
    path = tmp_path / "marks.json"
    entries = {"marked": [], "keep": [{"photo_id": "id-6"}], "reject": [{"photo_id": "id-4"}, {"photo_id": "gone"}]}
    path.write_text(json.dumps({"batch_id": "trip", **entries}))
    page.click("#open-export")
    with page.expect_file_chooser() as chooser:
        page.click("#load-marks")
    chooser.value.set_files(path)
    expect(page.locator("#copied")).to_have_text("0 of 0 marks are of photos here, and 2 decisions")
    page.keyboard.press("Escape")
    assert decisions(page) == {"keep": [6], "reject": [4]}


def test_files_of_one_id_are_decided_by_path(view: Open, tmp_path: Path) -> None:
    """Equal bytes in three folders: decisions stay with their files in another order, and with another file."""
    folders = ["a", "b", "c"]

    def files(*folders: str) -> list[dict[str, Any]]:
        group = {"id": "g", "kind": "copy", "what": "", "size": len(folders), "similarity": 1.0, "reason": "equal"}
        return [
            photo(place, id="same", name="IMG_1.jpg", path=f"{folder}/IMG_1.jpg")
            | {"group": {**group, "rank": 1, "copy_of": None, "copy_of_path": None}}
            | (
                {"group": {**group, "rank": 2, "copy_of": "same", "copy_of_path": "a/IMG_1.jpg"}}
                if folder > "a"
                else {}
            )
            for place, folder in enumerate(folders)
        ]

    def chosen(page: Page) -> dict[str, list[str]]:
        page.click("#open-export")
        with page.expect_download() as download:
            page.click("#save-marks")
        page.keyboard.press("Escape")
        found = json.loads(download.value.path().read_text())
        return {name: sorted(item["path"][0] for item in found[name]) for name in ("keep", "reject")}

    page = view(sheet(files(*folders)), "sort=position&stacks=0")
    card(page, 1).click()
    expect(page.locator(".of-group p")).to_contain_text("copy of a/IMG_1.jpg")
    page.keyboard.press("b")
    page.keyboard.press("Escape")
    assert chosen(page) == {"keep": ["b"], "reject": ["a", "c"]}
    page = view(sheet(files("d", "c", "b", "a")), "sort=position&stacks=0", beside=page)
    assert chosen(page) == {"keep": ["b"], "reject": ["a", "c"]}
    path = tmp_path / "marks.json"
    of = {name: [{"photo_id": "same", "path": f"{name}/IMG_1.jpg"}] for name in "dx"}
    path.write_text(json.dumps({"batch_id": "trip", "marked": [], "keep": of["d"], "reject": of["x"]}))
    page.click("#open-export")
    with page.expect_file_chooser() as chooser:
        page.click("#load-marks")
    chooser.value.set_files(path)
    expect(page.locator("#copied")).to_have_text("0 of 0 marks are of photos here, and 1 decision")
    page.keyboard.press("Escape")
    assert chosen(page) == {"keep": ["b", "d"], "reject": ["a", "c"]}


def test_details_say_why_and_lead_to_the_others(view: Open) -> None:
    page = view(sheet(in_groups()), "sort=position")
    card(page, 4).click()
    section = page.locator(".of-group")
    expect(section.locator("h3")).to_have_text("Burst of 5")
    expect(section.locator("p")).to_have_text("Rank 1: burst-1 0 & <i>more</i>; any two at least 91 % alike.")
    assert section.locator(".rank").all_inner_texts() == ["1", "2", "3", "4", "5"]
    section.locator(".member").nth(2).click()
    expect(page.locator("#detail-name")).to_have_text("IMG_6.jpg")
    expect(section.locator(".member").nth(2)).to_have_attribute("aria-current", "true")
    section.get_by_text("Keep this, reject the rest").click()
    assert section.locator(".member .decided").all_inner_texts() == ["reject", "reject", "keep", "reject", "reject"]
    expect(page.locator("#detail-keep")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("k")
    expect(page.locator("#detail-keep")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("Escape")
    page.locator(".card", has_text="IMG_18.jpg").click()
    expect(section.locator("h3")).to_have_text("Set of 3: bracket")
    assert section.get_by_text("Keep this").count() == 0
    page.keyboard.press("Escape")
    page.uncheck("#stacks")
    page.locator(".card", has_text="IMG_13.jpg").click()
    expect(section.locator("p")).to_contain_text("copy of IMG_11.jpg")


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_groups_are_accessible_and_fit(view: Open, size: tuple[int, int]) -> None:
    options = {"viewport": {"width": size[0], "height": size[1]}, "has_touch": size[0] < 600}
    page = view(sheet(in_groups()), "sort=position&group=burst&group=set", **options)
    page.keyboard.press("Tab")
    card(page, 0).focus()
    page.keyboard.press("s")
    page.keyboard.press("b")
    assert Axe().run(page).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("Enter")
    assert Axe().run(page).response["violations"] == []
    assert page.evaluate("document.querySelector('#detail').scrollWidth <= innerWidth")
