"""A small server that speaks the hub's protocol, for one or more repositories in memory."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by id: their files by name. `requests` are the paths asked for, in order."""

    def __init__(self, repositories: dict[str, dict[str, bytes]], gated: tuple[str, ...] = ()):
        self.repositories = repositories
        self.gated = gated
        self.requests: list[str] = []
        self.url = ""

    def fetched(self) -> set[str]:
        """Names of the files whose contents were sent."""
        return {
            path.split(f"/resolve/{COMMIT}/")[1]
            for path in self.requests
            if path.startswith("GET ") and "/resolve/" in path
        }

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for the request of `path`."""
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        of_api = parts[:2] == ["api", "models"]
        if of_api:
            parts = parts[2:]
        name, rest = "/".join(parts[:2]), parts[2:]
        if name not in self.repositories:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        files = self.repositories[name]
        if of_api and (not rest or rest[0] == "revision"):
            siblings = [{"rfilename": file} for file in files]
            return self._json({"id": name, "sha": COMMIT, "siblings": siblings})
        if of_api and rest[0] == "tree":
            return self._json(
                [
                    {"type": "file", "path": file, "size": len(content), "oid": _digest(content)}
                    for file, content in files.items()
                ]
            )
        if rest[:1] == ["resolve"] and "/".join(rest[2:]) in files:
            content = files["/".join(rest[2:])]
            headers = {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": COMMIT}
            return 200, headers, content
        return 404, {"X-Error-Code": "EntryNotFound"}, b""

    @staticmethod
    def _json(content: object) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serve `hub` on a free port of this machine; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(with_body=True)

        def do_HEAD(self) -> None:
            self._reply(with_body=False)

        def _reply(self, *, with_body: bool) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
