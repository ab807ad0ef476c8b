"""Fixtures: a Hugging Face hub on the loopback, and machines that know no other hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

from curation_features.errors import MissingWeightsError
from curation_features.settings import Settings, load_settings
from curation_features.weights import ModelStatus, Weights, catalog, locate, pull

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".pt", ".model")
CHECKPOINT = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
PICKLE = b"\x80\x02" + bytes(range(256)) * 2000
SIGN_IN = b"<!DOCTYPE html><html><title>Sign in to the network</title></html>"


@dataclass
class Request:
    """A request, and the number of body bytes that were sent for it."""

    method: str
    path: str
    range: str | None
    token: str | None
    sent: int = 0

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass
class Hub:
    """A server with the hub's download API, and with faults to switch on.

    Attributes:
        repositories: the files of each `ORG/NAME`.
        plain: files at `/files/NAME`, as on any other server.
        revisions: the commit of each branch and tag, the same in all repositories.
        gated: the token of each gated repository.
        requests: every request so far.
        cut: by file name, the number of bytes after which each response breaks off.
        wrong: by file name, the bytes to send instead; the headers stay true.
        sign_in: answer everything with a web page, like the sign-in page of a network.
        pace: seconds to wait before each 16 kB.
        stop_at: total of bytes after which nothing is sent until this is None.
        no_ranges: ignore range requests.
    """

    url: str
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    gated: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, bytes] = field(default_factory=dict)
    sign_in: bool = False
    pace: float = 0.0
    stop_at: int | None = None
    no_ranges: bool = False

    @property
    def sent(self) -> int:
        """Bytes of all bodies so far."""
        return sum(request.sent for request in self.requests)

    def gets(self, name: str = "") -> list[Request]:
        """The requests so far that were answered with a body (no redirects)."""
        return [r for r in self.requests if r.method == "GET" and (not name or r.name == name) and r.sent]


@pytest.fixture
def hub() -> Iterator[Hub]:
    """An empty hub on the loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.hub  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def is_large(name: str) -> bool:
    """Whether the hub stores a file separately, by its sha256."""
    return name.endswith(LARGE)


def blob_of(name: str, data: bytes) -> str:
    """The hub's name for the content of a file."""
    if is_large(name):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def altered(data: bytes) -> bytes:
    """The same bytes with the last bit inverted."""
    return data[:-1] + bytes([data[-1] ^ 1])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, *args: object) -> None:
        """Log nothing."""

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _answer(self) -> None:
        header = self.headers.get("Authorization") or ""
        self.request_made = Request(self.command, unquote(self.path), self.headers.get("Range"), header[7:] or None)
        self.hub.requests.append(self.request_made)
        path = self.request_made.path
        if self.hub.sign_in:
            self._send(200, SIGN_IN, {"Content-Type": "text/html"})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*match.groups())
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            assert self.request_made.token is None, "a token was sent to another host"
            self._file(match[2], self.hub.repositories[match[1]][match[2]], '"of-the-cdn-{}"')
        elif path.startswith("/files/") and path[7:] in self.hub.plain:
            self._file(path[7:], self.hub.plain[path[7:]], '"{}"')
        else:
            self._send(404)

    do_GET = do_HEAD = _answer

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        """Send a file of a repository, or a redirect to it."""
        token = self.hub.gated.get(repo)
        if repo not in self.hub.repositories:
            self._send(401, headers={"X-Error-Code": "RepoNotFound"})
        elif token and self.request_made.token != token:
            restricted = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to {repo} is restricted"}
            self._send(403 if self.request_made.token else 401, headers=restricted)
        elif revision not in {*self.hub.revisions, *self.hub.revisions.values()}:
            self._send(404, headers={"X-Error-Code": "RevisionNotFound"})
        elif name not in self.hub.repositories[repo]:
            self._send(404, headers={"X-Error-Code": "EntryNotFound"})
        else:
            data = self.hub.repositories[repo][name]
            commit = {"X-Repo-Commit": self.hub.revisions.get(revision, revision)}
            if not is_large(name):
                self._file(name, data, f'"{blob_of(name, data)}"', commit)
                return
            elsewhere = self.hub.url.replace("127.0.0.1", "localhost")  # another host, as the real hub's
            linked = {"X-Linked-ETag": f'"{blob_of(name, data)}"', "X-Linked-Size": str(len(data))}
            self._send(302, headers={"Location": f"{elsewhere}/cdn/{repo}/{name}", **linked, **commit})

    def _file(self, name: str, data: bytes, etag: str, headers: dict[str, str] | None = None) -> None:
        """Send the bytes of a file, or the requested range."""
        etag = etag.format(hashlib.md5(data).hexdigest())
        data = self.hub.wrong.get(name, data)
        headers = {**(headers or {}), "ETag": etag, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.request_made.range or "")
        if wanted and not self.hub.no_ranges and self.headers.get("If-Range", etag) == etag:
            start = int(wanted[1])
            if start >= len(data):
                self._send(416, headers={"Content-Range": f"bytes */{len(data)}"})
            else:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                self._send(206, data[start:], headers, self.hub.cut.get(name))
        else:
            self._send(200, data, headers, self.hub.cut.get(name))

    def _send(
        self, status: int, data: bytes = b"", headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = data if cut is None else data[:cut]
        for start in range(0, len(body), 1 << 14):
            time.sleep(self.hub.pace)
            while self.hub.stop_at is not None and self.hub.sent >= self.hub.stop_at:
                time.sleep(0.005)
            chunk = body[start : start + (1 << 14)]
            self.request_made.sent += len(chunk)  # first: afterwards the client may already look
            self.wfile.write(chunk)
        if len(body) < len(data):
            self.close_connection = True


# --- machines ---

PROLOGUE = """
import json, sys
from pathlib import Path
from curation_features.weights import catalog
catalog.RN50_URL, catalog.RN50_SHA256 = sys.argv[1:3]
"""
PULL = """
from curation_features.weights import pull
from curation_features.settings import load_settings
assert not [status.problem for status in pull(load_settings()) if status.problem]
assert "torch" not in sys.modules
"""
CLI = """
from curation_features.cli import main
sys.exit(main(sys.argv[3:]))
"""
OTHERS = re.compile("HF_|HUGGING|CURATION_FEATURES_|TORCH_HOME|XDG_|.*_proxy|TRANSFORMERS_", re.IGNORECASE)


@dataclass
class Machine:
    """A machine whose only hub is the one on the loopback: a project, and an empty `HF_HOME`.

    Attributes:
        environ: the variables that matter here; the tests' own values of these are hidden.
    """

    hub: Hub
    root: Path
    own: dict[str, str]

    @property
    def environ(self) -> dict[str, str]:
        """All environment variables of its processes."""
        return {**{name: value for name, value in os.environ.items() if not OTHERS.match(name)}, **self.own}

    @property
    def home(self) -> Path:
        return self.root / "hf"

    @property
    def weights(self) -> Path:
        return self.home / "assets" / "curation-features" / "weights"

    def blobs(self, repo: str = "org/model") -> Path:
        return self.home / "hub" / f"models--{repo.replace('/', '--')}" / "blobs"

    @property
    def known(self) -> tuple[str, str]:
        """URL and digest of RN50."""
        rn50 = hashlib.sha256(self.hub.plain.get("RN50.pt", b"")).hexdigest()
        return f"{self.hub.url}/files/RN50.pt", rn50

    def start(self, script: str, *arguments: str | Path, **environ: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", PROLOGUE + script, *self.known, *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env={**self.environ, **environ}, cwd=self.root, stdout=pipe, stderr=pipe, text=True
        )

    @contextmanager
    def settings(self, **environ: str) -> Iterator[Settings]:
        """Make this process one of the machine, and yield the settings of its project."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "environ", {**self.environ, **environ})
            patch.setattr(constants, "ENDPOINT", self.hub.url)
            patch.setattr(
                constants,
                "HUGGINGFACE_CO_URL_TEMPLATE",
                f"{self.hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            )
            for name, path in (("HF_HUB_CACHE", "hub"), ("HF_ASSETS_CACHE", "assets"), ("HF_TOKEN_PATH", "token")):
                patch.setattr(constants, name, str(self.home / path))
            for name, value in zip(("RN50_URL", "RN50_SHA256"), self.known, strict=True):
                patch.setattr(catalog, name, value)
            yield load_settings(self.root)

    def pull(self, folder: Path | None = None, **environ: str) -> dict[str, ModelStatus]:
        """Pull, and return the status of each model."""
        with self.settings(**environ) as settings:
            return {status.name: status for status in pull(settings, folder=folder)}

    def locate(self, model: str = "clip", **environ: str) -> Weights:
        """Locate a model."""
        with self.settings(**environ) as settings:
            return locate(model, settings)

    def problem(self, model: str = "clip", **environ: str) -> str:
        """The error of a model that cannot be located."""
        with pytest.raises(MissingWeightsError) as caught:
            self.locate(model, **environ)
        return str(caught.value)

    def files(self) -> dict[str, bytes | str]:
        """Every file in `HF_HOME` but locks: its bytes, or the target of its link."""
        return {
            str(path.relative_to(self.home)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
            for path in sorted(self.home.rglob("*"))
            if (path.is_symlink() or path.is_file()) and ".locks" not in path.parts and path.name != "fetch.lock"
        }


@pytest.fixture(scope="session")
def hub_model() -> dict[str, bytes]:
    """The files of a repository with a checkpoint: valid, but of no real model."""
    import numpy as np
    from checkpoints import PREPROCESS, TEXT, VIT
    from safetensors.numpy import save

    config = {"model_cfg": {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT}, "preprocess_cfg": PREPROCESS}
    weights = np.random.default_rng(5).random(500_000, np.float32)
    return {CONFIG: json.dumps(config).encode(), CHECKPOINT: save({"weights": weights})}


@pytest.fixture
def make_machine(hub: Hub, tmp_path: Path) -> Any:
    """Make machines without any weights."""

    def make(name: str, **environ: str) -> Machine:
        root = tmp_path / name
        root.mkdir()
        own = {
            "HF_HOME": str(root / "hf"),
            "HOME": str(root),
            "HF_ENDPOINT": hub.url,
            "CURATION_FEATURES_MODEL": "hf-hub:org/model",
            "CURATION_FEATURES_DEVICE": "cpu",
        }
        return Machine(hub, root, {**own, **environ})

    return make
