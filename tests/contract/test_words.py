"""Docstrings, comments, messages and documents avoid the words listed in CONTRIBUTING.md."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)
CODE = ("curation_features", "tests", "benchmarks", "examples", "fuzz", "tools")
STARTS = re.compile(r"^(what|where|whoever|whatever|such|one that|those that)\b", re.IGNORECASE)
TEXT_OF_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def avoided() -> re.Pattern[str]:
    section = (REPOSITORY / "CONTRIBUTING.md").read_text().partition("| avoid | write |")[2]
    words = TABLE.findall(section.partition("\n\n")[0].replace("\\|", "|"))
    return re.compile(rf"(?<![\w-])({'|'.join(words)})(?![\w-])", re.IGNORECASE)


def comments(path: Path) -> Iterator[tuple[int, str]]:
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string.lstrip("# ")


def documented(tree: ast.Module) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)))


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in documented(tree):
        if text := ast.get_docstring(node):  # type: ignore[arg-type]
            yield node.body[0].lineno, text  # type: ignore[attr-defined]


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Texts with a space in them: messages, help, descriptions, and docstrings of attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    if path.suffix == ".md":
        yield 1, TEXT_OF_CODE.sub("", path.read_text())
        return
    yield from comments(path)
    tree = ast.parse(path.read_text())
    yield from strings(tree) if "curation_features" in path.parts else docstrings(tree)


def files() -> list[Path]:
    code = [path for folder in CODE for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    texts = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "benchmarks").glob("*.md")]
    return [path for path in (*code, *texts) if path.name not in ("CONTRIBUTING.md", "test_words.py")]


def found_in(path: Path) -> list[str]:
    pattern, name = avoided(), path.relative_to(REPOSITORY)
    found = [f"{name}:{line}: {hit[0]!r}" for line, text in texts_of(path) for hit in pattern.finditer(text)]
    if path.suffix == ".py":
        started = [(line, text) for line, text in docstrings(ast.parse(path.read_text())) if STARTS.match(text)]
        found += [f"{name}:{line}: begins with {text.split()[0]!r}" for line, text in started]
    return found


def test_the_words_are_the_fields_words() -> None:
    found = [problem for path in files() for problem in found_in(path)]
    assert not found, "\n".join(found)


def test_test_names_are_short() -> None:
    names = [
        f"{path.relative_to(REPOSITORY)}::{node.name}"
        for path in sorted((REPOSITORY / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and len(node.name) >= 60
    ]
    assert not names, "\n".join(names)


@pytest.mark.parametrize("text", ["It is made anew.", "# whoever asks", '"""What is read."""'])
def test_a_breach_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setitem(globals(), "REPOSITORY", tmp_path)
    (tmp_path / "CONTRIBUTING.md").write_text("| avoid | write |\n|---|---|\n| `anew` | again |\n| `whoever` | |\n")
    path = tmp_path / ("page.md" if text[0] == "I" else "code.py")
    path.write_text(f"{text}\n")
    assert len(found_in(path)) == 1
