"""Write `docs/api.md` from the docstrings of the public names.

python tools/api_page.py            # or: make api
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import curation_features

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
HEAD = """\
# Python API
`import curation_features` loads neither torch nor Dagster. This page is generated from the docstrings by
`tools/api_page.py`: run `make api` after a change.
"""
SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):")


def page() -> str:
    """Return the page: classes, functions, then errors, each in alphabetical order."""
    public = [(name, getattr(curation_features, name)) for name in curation_features.__all__ if name[0] != "_"]
    errors = [(name, value) for name, value in public if inspect.isclass(value) and issubclass(value, Exception)]
    classes = [(name, value) for name, value in public if inspect.isclass(value) and (name, value) not in errors]
    functions = [(name, value) for name, value in public if inspect.isfunction(value)]
    constants = [(name, value) for name, value in public if not callable(value)]
    parts = [HEAD]
    for title, members in (("Classes", classes), ("Functions", functions), ("Errors", errors)):
        parts.append(f"## {title}\n")
        for name, value in members:
            parts += describe_error(name, value) if title == "Errors" else describe(name, value)
    parts.append("## Constants\n")
    for name, value in constants:
        parts += [f"### {name}\n", *code(repr(value))]
    return "\n".join(parts)


def describe(name: str, value: Any) -> Iterator[str]:
    """Yield heading, signature and docstring of a class with its public methods, or of a function."""
    yield f"### {name}\n"
    if name != value.__name__ and value.__name__ in curation_features.__all__:
        yield f"The earlier name of [`{value.__name__}`](#{value.__name__}).\n"
        return
    yield from code(f"{name}{signature(value)}")
    yield text(value)
    for method in methods(value) if inspect.isclass(value) else ():
        member = getattr(value, method)
        yield f"#### {name}.{method}\n"
        if not isinstance(member, property):
            yield from code(f"{method}{signature(member)}")
        yield text(member)


def describe_error(name: str, value: type[Exception]) -> Iterator[str]:
    """Yield heading, base class and docstring of an error."""
    yield f"### {name}\n"
    bases = [base.__name__ for base in value.__mro__[1:] if base.__name__ in curation_features.__all__]
    yield f"{'Subclass of `' + bases[0] + '`. ' if bases else ''}{text(value)}"


def methods(value: type) -> list[str]:
    """Return the public methods and properties that the class itself documents, in source order."""
    return [
        name
        for name, member in vars(value).items()
        if name[0] != "_" and (isinstance(member, (property, classmethod)) or inspect.isfunction(member))
    ]


def signature(value: Callable[..., Any]) -> str:
    """Return a signature as in the source, without `self`; `(...)` if it is long."""
    found = inspect.signature(value)
    parameters = [parameter for parameter in found.parameters.values() if parameter.name != "self"]
    if len(parameters) > 12:  # the settings, which docs/settings.md lists
        return "(...)"
    shown = str(found.replace(parameters=parameters)).removesuffix(" -> None")
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", shown)  # annotations are strings


def code(line: str) -> Iterator[str]:
    """Yield a line as a block of code, one parameter a line if it is long."""
    if len(line) > 100:
        head, _, rest = line.partition("(")
        inner, _, end = rest.rpartition(")")
        line = f"{head}(\n    " + re.sub(r", (?=\*|\w+:)", ",\n    ", inner) + f",\n){end}"
    yield f"```\n{line}\n```\n"


def text(value: Any) -> str:
    """Return a docstring as Markdown: sections become lists, indented blocks code."""
    lines: list[str] = []
    in_section = in_code = False
    for line in [*re.sub(" *# doctest:.*", "", inspect.getdoc(value) or "").splitlines(), ""]:
        indented = line.startswith("    ")
        is_code = line.startswith(">>> ") or (in_code and bool(line)) or (indented and not in_section)
        if is_code != in_code:
            lines.append("```")
            in_code = is_code
        if not is_code and (match := SECTION.fullmatch(line)):
            in_section = True
            lines += [f"**{match[1]}**", ""]
        elif in_section and indented and not is_code:
            item = re.match(r"    ([\w.*]+): (.*)", line)
            nested = line.startswith("        ")
            lines.append(f"- `{item[1]}`: {item[2]}" if item else f"  {line.strip()}" if nested else line.strip())
        else:
            in_section = in_section and not line
            lines.append(line[4:] if is_code and indented else line)
    return "\n".join(lines).strip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
