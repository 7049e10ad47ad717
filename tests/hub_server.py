"""A small hub on loopback that huggingface_hub takes for the real one: files, Git LFS, gates, tokens.

    with hub_server.start() as hub:
        hub.add("someone/tiny", {"config.json": b"{}", "model.safetensors": b"..."})
        hub.cut["model.safetensors"] = 1000     # no connection gets further than this byte

Weights answer as the hub's do: a redirect to another host, with their size and SHA-256 in the headers.
"""

import hashlib
import json
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

GOOD, STRANGER = "hf_good", "hf_stranger"  # a token with access to gated models, and one without


@dataclass
class Repo:
    """Files of a repository at its one commit."""

    files: dict[str, bytes]
    gated: bool = False
    sizes: dict[str, int] = field(default_factory=dict)  # what the listing says instead of the truth
    hashes: dict[str, str] = field(default_factory=dict)  # likewise

    @property
    def commit(self):
        digest = hashlib.sha1()
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()

    def lie(self, file):
        return {"sha256": self.hashes[file]} if file in self.hashes else {}


@dataclass
class Hub:
    """What the server holds, how it misbehaves, and what it was asked: (method, path, range, token)."""

    port: int
    repos: dict[str, Repo] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    status: int = 0  # answers everything with this, if set
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def add(self, name, files, **options):
        self.repos[name] = Repo(dict(files), **options)

    def add_folder(self, name, folder, **options):
        """Adds the files of a folder, as `name`."""
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        self.add(name, files, **options)

    def got(self, end):
        """The ranges of the GETs of files whose name ends so; None stands for a whole file."""
        return [
            bytes_
            for method, path, bytes_, _ in self.requests
            if method == "GET" and path.startswith("/storage/") and path.endswith(end)
        ]


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    hub: Hub

    def log_message(self, *arguments):
        """Says nothing."""

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.requests.append((self.command, path, self.headers.get("Range"), token))
        if self.hub.status:
            return self._refuse(self.hub.status)
        if path.startswith("/storage/"):
            _, _, owner, name, file = path.split("/", 4)
            return self._send(self.hub.repos[f"{owner}/{name}"].files[file], file)
        if token not in (None, GOOD, STRANGER):
            return self._refuse(401, message="Invalid credentials in Authorization header")
        is_api = path.startswith("/api/models/")
        owner, name, *rest = path.removeprefix("/api/models/").strip("/").split("/")
        repo = self.hub.repos.get(f"{owner}/{name}")
        if repo is None:
            return self._refuse(401 if token is None else 404, "RepoNotFound")
        revision = rest[1] if rest else "main"
        if revision not in ("main", repo.commit):
            return self._refuse(404, "RevisionNotFound")
        if is_api:
            return self._list(f"{owner}/{name}", repo)
        if repo.gated and token != GOOD:
            return self._refuse(401 if token is None else 403, "GatedRepo")
        return self._resolve(f"{owner}/{name}", repo, "/".join(rest[2:]))

    def _list(self, name, repo):
        files = [
            {"rfilename": file, "size": repo.sizes.get(file, len(content)), "blobId": _git_hash(content)}
            | ({"lfs": _lfs(content) | repo.lie(file)} if _is_weights(file) else {})
            for file, content in repo.files.items()
        ]
        body = json.dumps({"id": name, "sha": repo.commit, "siblings": files, "tags": []}).encode()
        self._reply(200, {"Content-Type": "application/json"}, body)

    def _resolve(self, name, repo, file):
        if file not in repo.files:
            return self._refuse(404, "EntryNotFound")
        content, commit = repo.files[file], {"X-Repo-Commit": repo.commit}
        if not _is_weights(file):
            return self._send(content, file, commit | {"ETag": f'"{_git_hash(content)}"'})
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{_lfs(content)["sha256"]}"'}
        # "localhost" is another host than 127.0.0.1 to a client, as the hub's storage is
        return self._reply(
            302, commit | linked | {"Location": f"http://localhost:{self.hub.port}/storage/{name}/{file}"}
        )

    def _send(self, content, file, headers=()):
        headers, status, start = {"Accept-Ranges": "bytes", **dict(headers)}, 200, 0
        if wanted := self.headers.get("Range"):
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.hub.cut.get(file)
        self._reply(status, headers, content[start:], None if cut is None else max(0, cut - start))

    def _refuse(self, status, code=None, message=None):
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._reply(status, {name: value for name, value in headers.items() if value})

    def _reply(self, status, headers, body=b"", cut=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


def _is_weights(file):
    return file.endswith(".safetensors")


def _git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _lfs(content):
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}


@contextmanager
def start():
    """Runs a hub without repositories; the block gets it."""
    answer = type("Answer", (_Answer,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
        answer.hub = Hub(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield answer.hub
        finally:
            server.shutdown()
            thread.join()
