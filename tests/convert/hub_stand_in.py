"""A small server that plays the Hugging Face hub for what its client asks when it downloads and uploads.

It serves and receives real bytes, and keeps what was asked of it. Files up to ``inline_bytes`` arrive inside
the commit, larger ones by Git LFS. It does not support Xet, which the hub also offers.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN, READING_TOKEN = "hf_writes", "hf_reads"


@dataclass
class Repo:
    """A repository: its files by path, and who may have them."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False


@dataclass
class Hub:
    """The hub's state, and the requests that reached it as (method, path)."""

    repos: dict[str, Repo] = field(default_factory=dict)
    inline_bytes: int = 1000
    requests: list[tuple[str, str]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS, by SHA-256

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def list_downloads(self):
        """List the files whose content was asked for, sorted."""
        found = (re.fullmatch(r"/[^/]+/[^/]+/resolve/[^/]+/(.+)", p) for m, p in self.requests if m == "GET")
        return sorted(match[1] for match in found if match)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub  # set in the subclass that a hub makes

    def _route(self):
        path = self.path.split("?")[0]
        self.hub.requests.append((self.command, path))
        body = self._read_body()
        for method, pattern, answer in ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, path)):
                return answer(self, body, *match.groups())
        return self._refuse(404, "NotFound", "no such page")

    do_GET = do_HEAD = do_POST = do_PUT = _route

    def log_message(self, format, *args):
        """Keep the tests' output clean."""

    def _read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, content, status=200, **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status, code, message):
        self._send({"error": message}, status, X_Error_Code=code, X_Error_Message=message)

    def _find_repo(self, repo_id):
        """Return the repository if the client may see it; else send the refusal and return None."""
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not self._read_token()):
            return self._refuse(404, "RepoNotFound", "Repository not found")
        return repo

    def _read_token(self):
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _may_write(self):
        if self._read_token() != TOKEN:
            self._refuse(
                403 if self._read_token() else 401, "Forbidden", "You don't have the rights to write"
            )
        return self._read_token() == TOKEN

    def info(self, _, repo_id, revision=None):
        if (repo := self._find_repo(repo_id)) is None:
            return
        if revision not in (None, "main", COMMIT):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        siblings = [{"rfilename": path, "size": len(data)} for path, data in repo.files.items()]
        self._send({"id": repo_id, "sha": COMMIT, "private": repo.private, "siblings": siblings})

    def tree(self, _, repo_id, revision):
        if (repo := self._find_repo(repo_id)) is not None:
            self._send(
                [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in repo.files.items()
                ]
            )

    def resolve(self, _, repo_id, revision, path):
        if (repo := self._find_repo(repo_id)) is None:
            return
        if repo.gated:
            self._refuse(403, "GatedRepo", f"Access to model {repo_id} is restricted")
        elif path not in repo.files:
            self._refuse(404, "EntryNotFound", "Entry not found")
        else:
            etag = f'"{hashlib.sha1(repo.files[path]).hexdigest()}"'
            self._send(repo.files[path], ETag=etag, X_Repo_Commit=COMMIT)

    def create(self, body):
        asked = json.loads(body)
        repo_id = f"{asked['organization']}/{asked['name']}"
        if not self._may_write():
            return
        status = 409 if repo_id in self.hub.repos else 200
        self.hub.repos.setdefault(repo_id, Repo({}, private=asked.get("visibility") == "private"))
        self._send({"url": f"{self.hub.url}/{repo_id}"}, status)

    def validate_yaml(self, body):
        match = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        good = match and isinstance(yaml.safe_load(match[1]), dict)
        errors = [] if good else [{"message": "the front matter is not a table"}]
        self._send({"warnings": [], "errors": errors}, 200 if good else 400)

    def preupload(self, body, repo_id, revision):
        self._send(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["size"] > self.hub.inline_bytes else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
            }
        )

    def lfs_batch(self, body, repo_id):
        objects = json.loads(body)["objects"]
        for item in objects:
            if item["oid"] not in self.hub.objects:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
        self._send({"transfer": "basic", "objects": objects})

    def lfs_object(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            return self._refuse(400, "BadRequest", "the bytes are not those of the hash")
        self.hub.objects[oid] = body
        return self._send({})

    def commit(self, body, repo_id, revision):
        if not self._may_write():
            return
        files = self.hub.repos[repo_id].files
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self._send({"commitUrl": f"{self.hub.url}/{repo_id}/commit/{COMMIT}", "commitOid": COMMIT})


REPO = "([^/]+/[^/]+)"
ROUTES = [
    ("GET", f"/api/models/{REPO}", _Handler.info),
    ("GET", f"/api/models/{REPO}/revision/([^/]+)", _Handler.info),
    ("GET", f"/api/models/{REPO}/tree/([^/]+)", _Handler.tree),
    ("GET", f"/{REPO}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("HEAD", f"/{REPO}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("POST", f"/api/models/{REPO}/preupload/([^/]+)", _Handler.preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", _Handler.lfs_object),
    ("POST", f"/api/models/{REPO}/commit/([^/]+)", _Handler.commit),
]
