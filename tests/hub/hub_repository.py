"""Repositories of the Hub double: files, commits and the rules by which a commit changes them."""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

MAX_REGULAR_SIZE = 10 * 2**20  # bytes; the Hub wants larger files in LFS
CARD_FIELDS_OF_NAMES = (
    "license",
    "language",
    "tags",
    "datasets",
    "metrics",
    "base_model",
    "library_name",
    "pipeline_tag",
)


class HubError(Exception):
    """An answer other than success; `code` is the Hub's `X-Error-Code`, from which the client makes its exceptions."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None, **body: str):
        line = " ".join(message.split()).encode("ascii", "replace").decode()  # what a header can hold
        names = {"X-Error-Message": line} | ({"X-Error-Code": code} if code else {})
        self.answer = Answer(status, {"error": message, **body}, names | (headers or {}))


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: Any = None  # bytes as they are, anything else as JSON
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A request as it came: `stage` is the endpoint's short name, "unknown" where there is none."""

    method: str
    path: str
    stage: str
    query: dict[str, list[str]] = field(repr=False)
    headers: dict[str, str] = field(repr=False)  # names in lower case
    body: bytes = field(repr=False)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class StoredFile:
    content: bytes
    is_lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git holds in place of an LFS file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def blob_id(self) -> str:
        blob = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob_id

    def entry(self, path: str) -> dict[str, Any]:
        """The file as an entry of a tree."""
        lfs = {"lfs": {"oid": self.sha256, "size": self.size, "pointerSize": len(self.pointer)}} if self.is_lfs else {}
        return {"type": "file", "oid": self.blob_id, "size": self.size, "path": path} | lfs

    def sibling(self, path: str, blobs: bool) -> dict[str, Any]:
        """The file as the information about a model lists it, with sizes if `blobs`."""
        lfs = {"lfs": {"sha256": self.sha256, "size": self.size, "pointerSize": len(self.pointer)}}
        details = {"size": self.size, "blobId": self.blob_id} | (lfs if self.is_lfs else {})
        return {"rfilename": path} | (details if blobs else {})


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    message: str
    date: str
    snapshot: dict[str, StoredFile]

    @property
    def files(self) -> dict[str, bytes]:
        return {path: file.content for path, file in self.snapshot.items()}


@dataclass
class Repository:
    private: bool
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    announced: dict[str, int] = field(default_factory=dict)  # sizes of the LFS objects that a client wants to upload
    lfs_objects: dict[str, bytes] = field(default_factory=dict)

    def commit_at(self, revision: str) -> Commit:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        for commit in self.commits:
            if commit.oid == oid:
                return commit
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def add_commit(self, branch: str, title: str, message: str, snapshot: dict[str, StoredFile]) -> Commit:
        content = [branch, title, message, len(self.commits), [(path, snapshot[path].blob_id) for path in snapshot]]
        oid = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self.commits.append(Commit(oid, title, message, date, snapshot))
        self.branches[branch] = oid
        return self.commits[-1]


def check_card(content: str) -> dict[str, list[dict[str, str]]]:
    """Errors and warnings about a card's metadata: what `huggingface_hub` can't parse, and names that aren't text."""
    try:
        metadata = ModelCard(content).data.to_dict()
    except (ValueError, TypeError, yaml.YAMLError) as error:
        return {"errors": [{"message": str(error)}], "warnings": []}
    errors = []
    for name in CARD_FIELDS_OF_NAMES:
        values = metadata.get(name, [])
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str):
                errors.append({"message": f'"{name}" must be a string or a list of strings, found {value!r}'})
    warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
    return {"errors": errors, "warnings": warnings}


def apply_operation(
    operation: str, value: dict[str, Any], snapshot: dict[str, StoredFile], lfs_objects: dict[str, bytes]
) -> None:
    """One line of a commit, applied to `snapshot`."""
    path = value["path"]
    if any(part in ("", ".", "..", ".git") for part in path.removesuffix("/").split("/")):
        raise HubError(400, f"invalid path {path!r}")
    if operation == "file":
        try:
            content = base64.b64decode(value["content"], validate=True)
        except binascii.Error as error:
            raise HubError(400, f"{path}: {error}") from error
        if len(content) > MAX_REGULAR_SIZE:
            raise HubError(400, f"{path} is larger than {MAX_REGULAR_SIZE} bytes and not in LFS")
        snapshot[path] = StoredFile(content)
    elif operation == "lfsFile":
        if value["oid"] not in lfs_objects:
            raise HubError(400, f"{path}: LFS object {value['oid']} was not uploaded")
        snapshot[path] = StoredFile(lfs_objects[value["oid"]], is_lfs=True)
    elif operation in ("deletedFile", "deletedFolder"):
        folder = path.removesuffix("/") + "/"
        gone = [name for name in snapshot if (name == path if operation == "deletedFile" else name.startswith(folder))]
        if not gone:
            raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for name in gone:
            del snapshot[name]
    else:
        raise HubError(400, f"unknown operation {operation!r}")


def matches(path: str, patterns: list[str]) -> bool:
    """Whether a line of `.gitignore` or `.gitattributes` names the file; plain patterns only, no negation."""
    return any(fnmatch(path, pattern) or fnmatch(path.split("/")[-1], pattern) for pattern in patterns)


def tree_entries(snapshot: dict[str, StoredFile]) -> list[dict[str, Any]]:
    """Folders and files of a snapshot, all levels."""
    folders = {str(parent) for path in snapshot for parent in Path(path).parents} - {"."}
    named = [{"type": "directory", "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0} for name in folders]
    entries = [entry | {"path": name} for entry, name in zip(named, folders, strict=True)]
    entries += [file.entry(path) for path, file in snapshot.items()]
    return sorted(entries, key=lambda entry: entry["path"])


def model_tags(card: dict[str, Any]) -> list[str]:
    """Tags of a model as the Hub derives them from its card."""
    prefixes = {"library_name": "", "pipeline_tag": "", "tags": "", "language": ""}
    prefixes |= {"datasets": "dataset:", "base_model": "base_model:", "license": "license:"}
    tags = []
    for name, prefix in prefixes.items():
        values = card.get(name, [])
        tags += [prefix + value for value in (values if isinstance(values, list) else [values])]
    return list(dict.fromkeys(tags))
