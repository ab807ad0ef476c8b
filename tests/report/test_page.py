"""The page as a file: its policy, its data, and escaping of all texts."""

from __future__ import annotations

import re
import tracemalloc
from base64 import b64decode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from contact_sheets import Elements, degraded, failed, many, photo, sheet, thumbnail

from curation_features.report import page
from curation_features.report.page import REASONS, REMEDIES, render
from curation_features.schema import PERMANENT_REASONS, PHOTO_REASONS

PARTS = Path(page.__file__).parent
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "</script x",
    "</SCRIPT/",
    "<!--<script>",
    "<!-- <script ",
    "]]>&lt;&amp;",
    "a\u2028b\u2029c\x00\x1b[2J\r\n",
    "\u202egpj.txt",
    "\ud800 half a character",
    "${title} $photos $pictures",
    "\U0001f469\u200d\U0001f680 caf\u00e9",
]


def rendered(given: dict[str, Any]) -> Elements:
    return Elements(b"".join(render(given)).decode())


def test_the_page_holds_its_data() -> None:
    picture = thumbnail(0)
    given = [photo(0, thumbnail=picture), degraded(1, "noise", "clip_labels"), failed(2)]
    elements = rendered(sheet(iter(given)))
    assert elements.json("photos") == [{**given[0], "thumbnail": picture[2:]}, *given[1:]]
    assert elements.json("t0") == picture[:2]
    known = elements.json("sheet")
    assert (known.pop("reasons"), known.pop("remedies")) == (REASONS, REMEDIES)
    assert known == {name: value for name, value in sheet([]).items() if name != "photos"}


def test_texts_stay_texts() -> None:
    given = []
    for number, text in enumerate(HOSTILE):
        lists = {"labels": [[text, 0.5, 0.2]], "errors": [[text] * 3], "facts": [[text] * 2]}
        given.append(photo(number, name=text, id=text, format=text, thumbnail=[text, text, 1, 1], **lists))
    everywhere = {"batch_id": "".join(HOSTILE), "labels": HOSTILE, "digest": HOSTILE[1]}
    calm = sheet([photo(i, thumbnail=thumbnail(i)) for i in range(len(HOSTILE))])
    files = [b"".join(render(made)).decode() for made in (calm, sheet(given, **everywhere))]
    calm_brackets, brackets = (re.findall("[<>]", file) for file in files)
    assert brackets == calm_brackets  # so that no text begins or ends an element
    hostile = Elements(files[1])
    assert hostile.json("photos") == [{**item, "thumbnail": [1, 1]} for item in given]
    assert [hostile.json(f"t{number}")[0] for number in range(len(HOSTILE))] == HOSTILE
    assert hostile.json("sheet")["labels"] == HOSTILE
    (title,) = hostile.texts("title")
    assert not re.search(r"[\x00-\x1f\u2028\u2029\u202e\ud800]", title)


def test_the_policy_allows_only_packaged_style_and_script() -> None:
    elements = rendered(sheet([photo(0, thumbnail=thumbnail(0))]))
    (policy,) = [
        more["content"] for tag, more, _ in elements.found if more.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.split(" ", 1) for rule in str(policy).split("; "))
    assert set(rules) == {"default-src", "img-src", "style-src", "script-src", "base-uri", "form-action"}
    assert {rules[name] for name in ("default-src", "base-uri", "form-action")} == {"'none'"}
    assert rules["img-src"] == "data:"
    scripts = [text for tag, more, text in elements.found if tag == "script" and "type" not in more]
    styles, script = elements.texts("style"), ("parts.js", "page.js")
    for rule, texts, parts in (("script-src", scripts, script), ("style-src", styles, ("page.css",))):
        assert texts == ["".join((PARTS / part).read_text("utf-8") for part in parts)]
        assert b64decode(rules[rule].removeprefix("'sha256-").removesuffix("'")) == sha256(texts[0].encode()).digest()
    first = next(place for place, (tag, _, _) in enumerate(elements.found) if tag in ("style", "script", "link"))
    assert any(more.get("http-equiv") for _, more, _ in elements.found[:first])


def test_the_frame_has_no_url_handler_or_inline_style() -> None:
    for tag, attributes, _ in rendered(sheet([])).found:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("style", "src", "action", "srcset")
        ]
        assert attributes.get("href") in (None, "data:,"), tag


def test_no_text_becomes_html_or_code_in_the_script() -> None:
    script = "".join((PARTS / part).read_text("utf-8") for part in ("parts.js", "page.js"))
    html = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|setHTML"
    assert re.search(html, script) is None
    assert re.search(r"\beval\b|\bFunction\(|setTimeout\([\"'`]", script) is None
    talk = r"\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|EventSource|import\(|Worker\(|cookie"
    assert re.search(talk, script) is None
    assert "</" not in script


def test_only_relative_encoded_links_are_kept() -> None:
    kept = ["../rankingInput/ab_1024.jpg", "a.jpg", "caf%C3%A9%3A1.jpg", "../x/%E6%97%A5%20(1).jpg"]
    dropped = [
        "javascript:alert(1)", "java\tscript:alert(1)", " javascript:alert(1)", "data:text/html,x", "/etc/passwd",
        "http://evil.example/a.jpg", "//evil.example/a.jpg", "\\\\evil\\share", "a b.jpg", "a.jpg?x", "caf\u00e9.jpg",
        "a.jpg\n", "", None,
    ]  # fmt: skip
    found = rendered(sheet(photo(0, href=href, original=href) for href in kept + dropped)).json("photos")
    for name in ("href", "original"):
        assert [item[name] for item in found] == kept + [None] * len(dropped)


def test_a_number_that_json_cannot_hold_is_an_error() -> None:
    with pytest.raises(ValueError, match="JSON"):
        b"".join(render(sheet([photo(0, raw={"tenengrad": float("inf")})])))


def test_every_reason_has_a_text() -> None:
    assert set(PHOTO_REASONS) | set(PERMANENT_REASONS) <= set(REASONS)
    package = PARTS.parent
    code = "\n".join(path.read_text("utf-8") for path in package.rglob("*.py") if path.parent != PARTS)
    raised = re.findall(r'(?:UndefinedMetricError|PhotoError|WeightsError)\(\s*"([a-z_]+)"', code)
    raised += re.findall(r'(?:FeatureError|_failed)\([\w"]+, "([a-z_]+)"', code)
    raised += re.findall(r'super\(\).__init__\("([a-z_]+)", summary', code)
    assert len(set(raised)) > 15
    assert set(raised) <= set(REASONS)


def test_pictures_come_last() -> None:
    text = b"".join(render(sheet([photo(i, thumbnail=thumbnail(i)) for i in range(3)]))).decode()
    assert text.index('id="photos"') < text.index('"use strict"') < text.index('id="t0"') < text.index('id="t2"')


def test_photos_are_streamed() -> None:
    taken = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for item in many(50):
            taken += 1
            yield item

    pieces = render(sheet(counted()))
    ahead = [taken for piece in pieces if piece.lstrip(b",\n").startswith(b'{"name":"IMG_')]
    assert ahead == list(range(1, 51))


@pytest.mark.long
def test_memory_does_not_grow_with_the_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_IN_MEMORY", 100_000)
    picture = ["image/jpeg", "A" * 10_000, 320, 240]

    def peak(photos: int) -> int:
        tracemalloc.start()
        size = sum(len(piece) for piece in render(sheet(many(photos, thumbnail=picture))))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert size > photos * 10_000
        return found

    peak(10)
    assert peak(400) < peak(100) + 200_000
