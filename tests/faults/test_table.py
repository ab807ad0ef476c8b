"""`docs/faults.md` has every fault, and names existing tests."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DOCUMENT = (REPOSITORY / "docs" / "faults.md").read_text()
ROWS = {int(number): row for row, number in re.findall(r"^(\| (\d+) \|.*)$", DOCUMENT, re.MULTILINE)}
TEST_ID = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def defined_in(file: str) -> frozenset[str]:
    path = REPOSITORY / file
    tree = ast.parse(path.read_text()) if path.is_file() else ast.Module([], [])
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_every_fault_has_an_outcome_and_a_test() -> None:
    assert list(ROWS) == [*range(1, 36), *range(38, 51), *range(60, 67), *range(70, 74)]
    for number, row in ROWS.items():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4, number
        assert all(cells), number
        assert TEST_ID.search(cells[3]), number


@pytest.mark.long
def test_every_named_test_exists() -> None:
    named = TEST_ID.findall(DOCUMENT)
    assert len(named) == DOCUMENT.count("::")
    assert [f"{file}::{name}" for file, name in named if name not in defined_in(file)] == []
    assert all(name.startswith("test_") for _, name in named)


def test_every_file_of_fault_tests_is_in_the_table() -> None:
    own = {f"tests/faults/{path.name}" for path in Path(__file__).parent.glob("test_*.py")} - {
        "tests/faults/test_table.py"
    }
    assert own <= {file for file, _ in TEST_ID.findall(DOCUMENT)}
