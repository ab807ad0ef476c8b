"""`make dev` if another program uses its port."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from devserver import REPOSITORY, free_port

from curation_features.orchestration.port import find_port_problem


@pytest.fixture
def taken() -> Iterator[int]:
    """A port in use."""
    with socket.create_server(("127.0.0.1", free_port())) as server:
        yield server.getsockname()[1]


def test_a_used_port_is_reported_with_a_free_one(taken: int) -> None:
    problem = find_port_problem(str(taken))
    assert problem.startswith(f"port {taken} cannot be used (Address already in use); PORT=")
    other = problem.partition("PORT=")[2].split()[0]
    assert int(other) > taken
    assert find_port_problem(other) == ""


def test_a_program_at_all_addresses_has_the_port_too() -> None:
    with socket.create_server(("", free_port())) as server:
        assert "cannot be used" in find_port_problem(str(server.getsockname()[1]))


def test_a_connection_that_lingers_does_not_take_a_port(taken: int) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)) as client:
        server.accept()[0].close()  # the side that closes first waits: TIME_WAIT
        client.recv(1)
    assert find_port_problem(str(port)) == ""


@pytest.mark.parametrize("given", ["", "0", "65536", "http", "-1", "3000 3001"])
def test_an_invalid_port_is_reported(given: str) -> None:
    assert find_port_problem(given).startswith(f"{given!r} is not a port: ")


def test_make_dev_stops_before_it_starts_anything(tmp_path: Path, taken: int) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    command = ["make", "-o", f"{sys.prefix}/.installed", "dev", f"VENV={sys.prefix}", f"PORT={taken}"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 2
    assert f"port {taken} cannot be used" in ran.stderr
    assert ran.stdout == ""
    assert not (tmp_path / "data").exists()
