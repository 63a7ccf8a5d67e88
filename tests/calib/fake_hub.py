"""A Hugging Face hub for one process: data sets in a folder, served over HTTP on this machine as the hub serves them.

`huggingface_hub` reads the address of its hub when it is imported, so who uses this is a process of its own, started
with `HF_ENDPOINT`. A data set is a folder `OWNER/NAME` of files; every branch is the same commit, `COMMIT`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

COMMIT = "c0ffee" * 6 + "c0ff"
GATED = "owner/gated"


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(address, the requests so far) of a hub with the data sets in `folder`."""
    asked: list[str] = []

    class Handler(_Handler):
        root = folder
        requests = asked

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    root: Path
    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(f"{self.command} {self.path}")
        parts = unquote(self.path.partition("?")[0]).strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            self._api("/".join(parts[2:4]), parts[4], parts[5], "/".join(parts[6:]))
        elif parts[0] == "datasets" and parts[3] == "resolve":
            self._file("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        else:
            self._say(404, {})

    do_HEAD = do_GET  # noqa: N815 the name that http.server asks for

    def do_POST(self) -> None:
        self.requests.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = unquote(self.path).strip("/").split("/")
        repository, wanted = "/".join(parts[2:4]), _paths_in(body)
        self._say(200, [entry for entry in self._entries(repository) if entry["path"] in wanted])

    def _api(self, repository: str, what: str, revision: str, below: str) -> None:
        if not (self.root / repository).is_dir():
            self._say(404, {}, "RepoNotFound")
        elif what == "tree":
            inside = [e for e in self._entries(repository) if fnmatch(e["path"], f"{below}/*" if below else "*")]
            self._say(200, [e for e in inside if "recursive=true" in self.path.lower() or _parent(e["path"]) == below])
        else:
            names = [{"rfilename": e["path"]} for e in self._entries(repository) if e["type"] == "file"]
            self._say(
                200, {"id": repository, "sha": _commit(revision), "siblings": names, "private": False, "gated": False}
            )

    def _entries(self, repository: str) -> list[dict[str, Any]]:
        base = self.root / repository
        return [
            {
                "type": "directory" if path.is_dir() else "file",
                "oid": hashlib.sha1(str(path).encode()).hexdigest(),
                "size": 0 if path.is_dir() else path.stat().st_size,
                "path": path.relative_to(base).as_posix(),
            }
            for path in sorted(base.rglob("*"))
        ]

    def _file(self, repository: str, revision: str, name: str) -> None:
        if repository == GATED:
            self._say(403, {"error": "Access to this dataset is restricted"}, "GatedRepo")
            return
        path = self.root / repository / name
        if not path.is_file():
            self._say(404, {}, "EntryNotFound")
            return
        content = path.read_bytes()
        begin, end, status = 0, len(content), 200
        if given := self.headers.get("Range"):
            first, _, last = given.removeprefix("bytes=").partition("-")
            begin, end, status = int(first), min(int(last or end - 1) + 1, end), 206
        self.send_response(status)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", _commit(revision))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[begin:end])

    def _say(self, status: int, content: Any, error: str = "") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
            self.send_header("X-Error-Message", error)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


def _paths_in(body: bytes) -> set[str]:
    try:
        return set(json.loads(body)["paths"])
    except ValueError:  # a form
        return {unquote(part.partition("=")[2]) for part in body.decode().split("&") if part.startswith("paths=")}


def _commit(revision: str) -> str:
    return revision if re.fullmatch("[0-9a-f]{40}", revision) else COMMIT


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
