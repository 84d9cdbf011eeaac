"""
A Hub on loopback: the endpoints that `huggingface_hub` (1.x and 2.x) uses for models and data sets, kept in memory.

It stands in for the service, never for the client: tests run the real client against it. Where the real Hub stores
large files behind Xet and a content delivery network, this one answers by plain HTTP, as the Hub still does for clients
without Xet. It knows basic LFS transfers only, and neither pull requests nor discussions; what it doesn't know it
answers with 501 and remembers in `unknown_requests`.
"""

import base64
import json
import math
import os
import re
import socket
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import HfApi, ModelCard, close_session, constants, file_download
from huggingface_hub.utils import _http

from .hub_repository import (
    MAX_REGULAR_SIZE,
    Answer,
    Commit,
    HubError,
    Repository,
    Request,
    StoredFile,
    apply_operation,
    check_card,
    matches,
    model_tags,
    tree_entries,
)

FOREVER = math.inf
STAGES = (
    "create",
    "validate",
    "preupload",
    "lfs_batch",
    "lfs_upload",
    "lfs_verify",
    "commit_before",
    "commit_after",
    "resolve",
)
INITIAL_FILES = {
    ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.wav filter=lfs diff=lfs merge=lfs -text\n"
}


class ConnectionDropped(Exception):
    """The connection is to be closed without an answer."""


class HubDouble:
    """
    Starts with `with HubDouble() as hub:` and ends with the block.

    Inside the block the client of this process uploads by plain HTTP and doesn't wait between its retries (it tries
    some requests six times, which would take 23 s). A subprocess does wait: a second if a connection drops once.

    Args:
        user: Name of the account that `hub.token` belongs to. It may write to repositories `user/...` only.
    """

    def __init__(self, user: str = "tester"):
        self.user = user
        self.token = "hf_of_the_double"
        self.requests: list[Request] = []
        self._failures: list[str] = []
        self._repositories: dict[str, Repository] = {}
        self._drops: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> "HubDouble":
        self._server = _Server(self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.api = HfApi(endpoint=self.endpoint, token=self.token)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self._stack.callback(self._server.server_close)
        self._stack.callback(self._server.shutdown)
        impatient = SimpleNamespace(sleep=lambda seconds: None)
        for change in (
            patch.object(constants, "HF_HUB_OFFLINE", False),
            patch.object(constants, "HF_HUB_DISABLE_XET", True),
            patch.object(_http, "time", impatient),
            patch.object(file_download, "time", impatient),
            patch.dict(os.environ, NO_PROXY="127.0.0.1"),
        ):
            self._stack.enter_context(change)
        close_session()  # the next one is made under this environment
        self._stack.callback(close_session)
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        self._stack.close()
        if exception_type is None and self._failures:
            raise AssertionError("the Hub double itself failed:\n" + "\n".join(self._failures))

    @property
    def unknown_requests(self) -> list[Request]:
        """Requests that found no endpoint."""
        return [request for request in self.requests if request.stage == "unknown"]

    def stages(self) -> list[str]:
        """Stages of the requests so far, in order."""
        return [request.stage for request in self.requests]

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Content by path at a branch, tag or commit; a data set is `datasets/<user>/<name>`, here and below."""
        return self._repositories[repo_id].commit_at(revision).files

    def commits(self, repo_id: str) -> list[Commit]:
        """All commits of a repository, oldest first; the first is the Hub's own, with `.gitattributes`."""
        return list(self._repositories[repo_id].commits)

    def environment(self, home: str | os.PathLike) -> dict[str, str]:
        """Environment of a subprocess that takes this for the Hub, logged in, with its own cache below `home`."""
        prefixes = ("HF_", "HUGGING", "TRANSFORMERS_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
        return inherited | {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": self.token,
            "HF_HOME": str(Path(home).resolve()),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def drop_connection_at(self, stage: str, times: float = 1) -> None:
        """
        Closes the connection without an answer at the next `times` requests of a stage (`FOREVER`: at all of them).

        Args:
            stage: One of `STAGES`. "commit_before" closes before the commit is applied, "commit_after" after it is; an
                object that is uploaded at "lfs_upload" is lost.
        """
        if stage not in STAGES:
            raise ValueError(f"unknown stage {stage!r}; known are {', '.join(STAGES)}")
        self._drops[stage] = times

    def keep_connections(self) -> None:
        """Undoes every `drop_connection_at`."""
        self._drops.clear()

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """One request, from the raw target; requests are answered one at a time, so none sees half of another."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        stage, function, groups = "unknown", None, {}
        for route_method, pattern, route_stage, route_function in self._ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method in route_method.split() and "create_pr" not in query:
                stage, function, groups = route_stage, route_function, match.groupdict(default="")
                break
        request = Request(method, path, stage, query, headers, body)
        with self._lock:
            self.requests.append(request)
            try:
                self._drop_if_asked(stage)
                if function is None:
                    raise HubError(501, f"the Hub double has no {method} {path}")
                if headers.get("authorization", self._authorization) != self._authorization:
                    raise HubError(401, "Invalid credentials in Authorization header")
                return function(self, request, **{name: unquote(value) for name, value in groups.items()})
            except HubError as error:
                return error.answer
            except ConnectionDropped:
                raise
            except Exception:
                self._failures.append(f"{method} {path}\n{traceback.format_exc()}")
                return Answer(400, {"error": "the Hub double failed"})

    def _drop_if_asked(self, stage: str) -> None:
        if self._drops.get(stage, 0) > 0:
            self._drops[stage] -= 1
            raise ConnectionDropped

    @property
    def _authorization(self) -> str:
        return f"Bearer {self.token}"

    def _require_token(self, request: Request) -> None:
        if "authorization" not in request.headers:
            raise HubError(401, "Invalid username or password.")

    def _repository(self, request: Request, repo_id: str, write: bool = False) -> Repository:
        repository = self._repositories.get(repo_id)
        known = "authorization" in request.headers
        if repository is None or (repository.private and not known):
            raise HubError(404 if known else 401, "Repository not found", "RepoNotFound")
        if write:
            self._require_token(request)
        return repository

    def _whoami(self, request: Request) -> Answer:
        self._require_token(request)
        token = {"displayName": "double", "role": "write", "createdAt": "2025-01-01T00:00:00.000Z"}
        auth = {"type": "access_token", "accessToken": token}
        return Answer(200, {"type": "user", "id": "0", "name": self.user, "fullname": "", "orgs": [], "auth": auth})

    def _create(self, request: Request) -> Answer:
        self._require_token(request)
        wanted = request.json()
        owner, kind = wanted.get("organization") or self.user, wanted.get("type") or "model"
        repo_id = f"{'datasets/' * (kind == 'dataset')}{owner}/{wanted['name']}"
        answer = {"url": f"{self.endpoint}/{repo_id}", "name": repo_id}
        if kind not in ("model", "dataset"):
            raise HubError(501, f"the Hub double has models and data sets, no {kind}")
        if owner != self.user:
            raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        if repo_id in self._repositories:
            raise HubError(409, "You already created this model repo", url=answer["url"], name=repo_id)
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"  # older clients, newer clients
        self._repositories[repo_id] = repository = Repository(private)
        initial = {path: StoredFile(content) for path, content in INITIAL_FILES.items()}
        repository.add_commit("main", "initial commit", "", initial)
        return Answer(200, answer)

    def _validate(self, request: Request) -> Answer:
        problems = check_card(request.json()["content"])
        return Answer(400 if problems["errors"] else 200, problems)

    def _preupload(self, request: Request, repo_id: str, revision: str) -> Answer:
        snapshot = self._repository(request, repo_id, write=True).commit_at(revision).snapshot
        wanted, nothing = request.json(), StoredFile(b"")
        ignored = wanted.get("gitIgnore", snapshot.get(".gitignore", nothing).content.decode()).split()
        attributes = snapshot.get(".gitattributes", nothing).content.decode().splitlines()
        large = [line.split()[0] for line in attributes if "filter=lfs" in line]
        files = []
        for file in wanted["files"]:
            path, binary = file["path"], b"\0" in base64.b64decode(file["sample"])
            lfs = binary or file["size"] > MAX_REGULAR_SIZE or matches(path, large)
            mode = {"uploadMode": "lfs" if lfs else "regular", "shouldIgnore": matches(path, ignored)}
            files.append({"path": path} | mode | ({"oid": snapshot[path].etag} if path in snapshot else {}))
        return Answer(200, {"files": files})

    def _lfs_batch(self, request: Request, repo_id: str) -> Answer:
        repository = self._repository(request, repo_id, write=True)
        objects = []
        for wanted in request.json()["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            repository.announced[oid] = size
            upload = {"href": f"{self.endpoint}/lfs-objects/{repo_id}/{oid}"}
            verify = {"href": f"{self.endpoint}/{repo_id}.git/info/lfs/verify"}
            actions = {} if oid in repository.lfs_objects else {"actions": {"upload": upload, "verify": verify}}
            objects.append({"oid": oid, "size": size} | actions)
        return Answer(200, {"transfer": "basic", "objects": objects})

    def _lfs_upload(self, request: Request, repo_id: str, oid: str) -> Answer:
        repository, file = self._repositories[repo_id], StoredFile(request.body)
        if repository.announced.get(oid) != file.size or file.sha256 != oid:
            raise HubError(400, f"{oid} of {repository.announced.get(oid)} bytes was announced, another object came")
        repository.lfs_objects[oid] = request.body
        return Answer()

    def _lfs_verify(self, request: Request, repo_id: str) -> Answer:
        wanted = request.json()
        content = self._repository(request, repo_id, write=True).lfs_objects.get(wanted["oid"])
        if content is None or len(content) != wanted["size"]:
            raise HubError(404, f"LFS object {wanted['oid']} of {wanted['size']} bytes was not uploaded")
        return Answer(200, {"success": True})

    def _commit(self, request: Request, repo_id: str, revision: str) -> Answer:
        self._drop_if_asked("commit_before")
        repository = self._repository(request, repo_id, write=True)
        if revision not in repository.branches:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        parent = repository.commit_at(revision)
        header, *changes = (json.loads(line) for line in request.body.splitlines())
        if not parent.oid.startswith(header["value"].get("parentCommit", "")):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        snapshot = dict(parent.snapshot)  # a copy: nothing is seen of it unless every change is valid
        for change in changes:
            apply_operation(change["key"], change["value"], snapshot, repository.lfs_objects)
        if "README.md" in snapshot and (errors := check_card(snapshot["README.md"].content.decode())["errors"]):
            raise HubError(400, f"Invalid metadata in README.md: {errors[0]['message']}")
        title, message = header["value"]["summary"], header["value"].get("description", "")
        commit = repository.add_commit(revision, title, message, snapshot)
        self._drop_if_asked("commit_after")
        url = f"{self.endpoint}/{repo_id}/commit/{commit.oid}"
        return Answer(200, {"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def _info(self, request: Request, repo_id: str, revision: str = "main") -> Answer:
        repository = self._repository(request, repo_id)
        commit = repository.commit_at(revision)
        card = ModelCard(commit.files.get("README.md", b"---\n{}\n---\n").decode()).data.to_dict()
        config = json.loads(commit.files.get("config.json", b"{}"))
        model_index = {"model-index": card.pop("model-index")} if "model-index" in card else {}
        siblings = [file.sibling(path, "blobs" in request.query) for path, file in commit.snapshot.items()]
        info = {
            "id": repo_id.removeprefix("datasets/"),
            "modelId": repo_id,
            "author": repo_id.removeprefix("datasets/").split("/")[0],
            "sha": commit.oid,
            "createdAt": repository.commits[0].date,
            "lastModified": commit.date,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": model_tags(card),
            "cardData": card,
            "config": {name: config[name] for name in ("architectures", "model_type", "auto_map") if name in config},
            "siblings": siblings,
            "spaces": [],
        }
        named = {name: card[name] for name in ("library_name", "pipeline_tag") if name in card}
        return Answer(200, info | named | model_index)

    def _tree(self, request: Request, repo_id: str, revision: str, path: str = "") -> Answer:
        snapshot = self._repository(request, repo_id).commit_at(revision).snapshot
        recursive = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        folder = path and path + "/"
        below = [entry for entry in tree_entries(snapshot) if entry["path"].startswith(folder)]
        if folder and not below:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        return Answer(200, [entry for entry in below if recursive or "/" not in entry["path"][len(folder) :]])

    def _paths_info(self, request: Request, repo_id: str, revision: str) -> Answer:
        snapshot = self._repository(request, repo_id).commit_at(revision).snapshot
        wanted = parse_qs(request.body.decode()).get("paths", [])
        return Answer(200, [entry for entry in tree_entries(snapshot) if entry["path"] in wanted])

    def _refs(self, request: Request, repo_id: str) -> Answer:
        repository = self._repository(request, repo_id)
        names = {"branches": ("heads", repository.branches), "tags": ("tags", repository.tags)}
        refs = {
            kind: [{"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": oid} for name, oid in oids.items()]
            for kind, (folder, oids) in names.items()
        }
        return Answer(200, refs | {"converts": [], "pullRequests": []})

    def _create_tag(self, request: Request, repo_id: str, revision: str) -> Answer:
        repository, tag = self._repository(request, repo_id, write=True), request.json()["tag"]
        oid = repository.commit_at(revision).oid
        if tag in repository.tags:
            raise HubError(409, f"Tag {tag} already exists")
        repository.tags[tag] = oid
        return Answer()

    def _create_branch(self, request: Request, repo_id: str, revision: str) -> Answer:
        repository = self._repository(request, repo_id, write=True)
        if revision in repository.branches:
            raise HubError(409, f"Reference already exists: {revision}")
        repository.branches[revision] = repository.commit_at(request.json().get("startingPoint", "main")).oid
        return Answer()

    def _delete_tag(self, request: Request, repo_id: str, revision: str) -> Answer:
        if self._repository(request, repo_id, write=True).tags.pop(revision, None) is None:
            raise HubError(404, f"Tag {revision} doesn't exist", "RevisionNotFound")
        return Answer()

    def _resolve(self, request: Request, repo_id: str, revision: str, path: str) -> Answer:
        commit = self._repository(request, repo_id).commit_at(revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        file = commit.snapshot.get(path)
        if file is None:
            raise HubError(404, "Entry not found", "EntryNotFound", headers)
        headers["ETag"] = f'"{file.etag}"'
        if file.is_lfs:
            headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if asked is None:
            return Answer(200, file.content, headers)
        start, stop = int(asked[1]), min(int(asked[2] or file.size) + 1, file.size)
        if start >= stop:
            raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{file.size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
        return Answer(206, file.content[start:stop], headers)

    _REPO, _REVISION, _PATH = r"(?P<repo_id>(?:datasets/)?[^/]+/[^/]+?)", r"(?P<revision>[^/]+)", r"(?P<path>.+)"
    _API = rf"/api/(?:models/|(?=datasets/)){_REPO}"
    _ROUTES: tuple[tuple[str, str, str, Callable[..., Answer]], ...] = (
        ("GET", r"/api/whoami-v2", "whoami", _whoami),
        ("POST", r"/api/repos/create", "create", _create),
        ("POST", r"/api/validate-yaml", "validate", _validate),
        ("POST", rf"{_API}/preupload/{_REVISION}", "preupload", _preupload),
        ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "lfs_batch", _lfs_batch),
        ("PUT", rf"/lfs-objects/{_REPO}/(?P<oid>[0-9a-f]+)", "lfs_upload", _lfs_upload),
        ("POST", rf"/{_REPO}\.git/info/lfs/verify", "lfs_verify", _lfs_verify),
        ("POST", rf"{_API}/commit/{_REVISION}", "commit", _commit),
        ("GET", _API, "info", _info),
        ("GET", rf"{_API}/revision/{_REVISION}", "info", _info),
        ("GET", rf"{_API}/tree/{_REVISION}(?:/{_PATH})?", "tree", _tree),
        ("POST", rf"{_API}/paths-info/{_REVISION}", "paths_info", _paths_info),
        ("GET", rf"{_API}/refs", "refs", _refs),
        ("POST", rf"{_API}/tag/{_REVISION}", "tag", _create_tag),
        ("DELETE", rf"{_API}/tag/{_REVISION}", "tag", _delete_tag),
        ("POST", rf"{_API}/branch/{_REVISION}", "branch", _create_branch),
        ("HEAD GET", rf"/{_REPO}/resolve/{_REVISION}/{_PATH}", "resolve", _resolve),
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes
    server: "_Server"

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            answer = self.server.hub.answer(self.command, self.path, headers, self._read_body())
        except ConnectionDropped:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        is_bytes = isinstance(answer.body, bytes)
        body = answer.body if is_bytes else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/octet-stream" if is_bytes else "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the requests are in `hub.requests`."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # a snapshot is downloaded by many threads at once

    def __init__(self, hub: HubDouble):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
