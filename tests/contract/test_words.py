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


def avoided(repository: Path) -> re.Pattern[str]:
    section = (repository / "CONTRIBUTING.md").read_text().partition("| avoid | write |")[2]
    words = TABLE.findall(section.partition("\n\n")[0].replace("\\|", "|"))
    return re.compile(rf"(?<![\w-])({'|'.join(words)})(?![\w-])", re.IGNORECASE)


def comments(path: Path) -> Iterator[tuple[int, str]]:
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string.lstrip("# ")


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and the statements in it; their expressions, most of the tree, are skipped."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield from statements(child)


def documented(tree: ast.Module) -> Iterator[ast.AST]:
    return (node for node in statements(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)))


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in documented(tree):
        if text := ast.get_docstring(node):  # type: ignore[arg-type]
            yield node.body[0].lineno, text  # type: ignore[attr-defined]


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Texts with a space in them: messages, help, descriptions, and docstrings of attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


def found_in_text(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    return (f"1: {hit[0]!r}" for hit in pattern.finditer(TEXT_OF_CODE.sub("", text)))


def found_in_code(path: Path, pattern: re.Pattern[str]) -> Iterator[str]:
    tree = ast.parse(code := path.read_text())
    documented = list(docstrings(tree))
    checked = list(strings(tree) if "curation_features" in path.parts else documented)
    if any(pattern.search(line) for line in code.splitlines() if "#" in line):  # reading tokens is slow
        checked += comments(path)
    yield from (f"{line}: {hit[0]!r}" for line, text in checked for hit in pattern.finditer(text))
    yield from (f"{line}: begins with {text.split()[0]!r}" for line, text in documented if STARTS.match(text))


def files() -> list[Path]:
    code = [path for folder in CODE for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    texts = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "benchmarks").glob("*.md")]
    return [path for path in (*code, *texts) if path.name not in ("CONTRIBUTING.md", "test_words.py")]


def found_in(path: Path, repository: Path) -> list[str]:
    pattern = avoided(repository)
    found = found_in_code(path, pattern) if path.suffix == ".py" else found_in_text(path.read_text(), pattern)
    return [f"{path.relative_to(repository)}:{problem}" for problem in found]


def test_the_words_are_the_fields_words() -> None:
    found = [problem for path in files() for problem in found_in(path, REPOSITORY)]
    assert not found, "\n".join(found)


def test_test_names_are_short() -> None:
    names = [
        f"{path.relative_to(REPOSITORY)}::{node.name}"
        for path in sorted((REPOSITORY / "tests").rglob("test_*.py"))
        for node in statements(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and len(node.name) >= 60
    ]
    assert not names, "\n".join(names)


@pytest.mark.parametrize("text", ["It is made anew.", "# whoever asks", '"""What is read."""'])
def test_a_breach_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "CONTRIBUTING.md").write_text("| avoid | write |\n|---|---|\n| `anew` | again |\n| `whoever` | |\n")
    path = tmp_path / ("page.md" if text[0] == "I" else "code.py")
    path.write_text(f"{text}\n")
    assert len(found_in(path, tmp_path)) == 1
