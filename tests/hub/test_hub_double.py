"""The Hub double keeps the promises that the tests of publishing rest on, seen through the real client."""

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_session
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from .hub_double import FOREVER, INITIAL_FILES, STAGES, HubDouble

REPO = "tester/model"
OLD = {"config.json": b'{"model_type": "wav2vec2"}', "model.safetensors": b"old weights", "only_old.txt": b"old"}
NEW = {"config.json": b'{"model_type": "hubert"}', "model.safetensors": b"new weights", "samples/a.wav": b"RIFF new"}
CARD = (
    b"---\nlicense: apache-2.0\nlanguage: [en, de]\ntags: [speech]\npipeline_tag: audio-classification\n---\n# Model\n"
)
RETRIED_STAGES = ["preupload", "lfs_batch", "lfs_upload", "lfs_verify"]


@pytest.fixture
def hub() -> Iterator[HubDouble]:
    with HubDouble() as hub:
        hub.api.create_repo(REPO)
        yield hub


def push(hub: HubDouble, files: dict[str, bytes], delete: tuple[str, ...] = (), **options: str) -> CommitInfo:
    """One commit of the real client."""
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    operations += [CommitOperationDelete(path) for path in delete]
    return hub.api.create_commit(REPO, operations, commit_message="a push", **options)


def contents(folder: str | Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }


def post_commit(hub: HubDouble, *changes: tuple[str, dict]) -> int:
    """A commit as a client with an error might send it; returns the status."""
    lines = [{"key": "header", "value": {"summary": "raw"}}]
    lines += [{"key": key, "value": value} for key, value in changes]
    return (
        get_session()
        .post(
            f"{hub.endpoint}/api/models/{REPO}/commit/main",
            headers={"Authorization": f"Bearer {hub.token}"},
            content="\n".join(json.dumps(line) for line in lines),
        )
        .status_code
    )


def run_python(code: str, environment: dict[str, str], *arguments: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout.strip()


NAMES = ["vocab.json", "model.safetensors", "samples/a.wav", "samples/more/b.wav", "notes.txt", "data.bin"]


@given(files=st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=300), min_size=1))
@settings(max_examples=15, deadline=None)
def test_what_is_committed_comes_back_byte_for_byte_and_passes_the_clients_checksums(tmp_path_factory, files):
    with HubDouble() as hub:
        hub.api.create_repo(REPO)
        push(hub, files)
        folder = tmp_path_factory.mktemp("download")
        hub.api.snapshot_download(REPO, local_dir=folder)
        assert contents(folder) == hub.files(REPO) == INITIAL_FILES | files
        checks = hub.api.verify_repo_checksums(REPO, local_dir=folder)
        assert (checks.checked_count, checks.mismatches, checks.missing_paths) == (len(files) + 1, [], [])
        assert hub.unknown_requests == []


def test_regular_and_lfs_files_arrive_in_one_commit(hub):
    info = push(hub, OLD)
    assert [commit.oid for commit in hub.commits(REPO)][1:] == [info.oid]
    stored_in_lfs = {entry.path for entry in hub.api.list_repo_tree(REPO) if entry.lfs}
    assert stored_in_lfs == {"model.safetensors"}
    assert hub.stages().count("lfs_upload") == hub.stages().count("commit") == 1


def test_a_file_that_did_not_change_is_not_uploaded_again(hub):
    first = push(hub, OLD)
    assert push(hub, OLD).oid == first.oid
    push(hub, OLD | {"config.json": b"{}"})
    assert len(hub.commits(REPO)) == 3
    assert hub.stages().count("lfs_upload") == 1


def test_ignored_files_stay_out(hub):
    push(hub, {".gitignore": b"*.tmp\n", "a.tmp": b"a", "b.txt": b"b"})
    assert hub.files(REPO).keys() - INITIAL_FILES.keys() == {".gitignore", "b.txt"}


def test_deleting_takes_a_file_or_a_folder(hub):
    push(hub, OLD | NEW)
    push(hub, {}, delete=("only_old.txt", "samples/"))
    assert hub.files(REPO).keys() - INITIAL_FILES.keys() == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "resolve"])
def test_a_push_cut_off_at_any_stage_leaves_the_old_files_or_the_new_and_can_be_repeated(hub, stage):
    push(hub, {"README.md": CARD} | OLD)
    old = hub.files(REPO)
    new = INITIAL_FILES | {"README.md": CARD} | NEW
    hub.drop_connection_at(stage, FOREVER)
    with pytest.raises(Exception, match="disconnected|Error while uploading"):
        hub.api.create_repo(REPO, exist_ok=True)
        push(hub, {"README.md": CARD} | NEW, delete=("only_old.txt",))
    assert hub.files(REPO) == (new if stage == "commit_after" else old)
    hub.keep_connections()
    hub.api.create_repo(REPO, exist_ok=True)
    push(hub, {"README.md": CARD} | NEW, delete=("only_old.txt",) if "only_old.txt" in hub.files(REPO) else ())
    assert hub.files(REPO) == new
    assert len(hub.commits(REPO)) == 3
    assert hub.unknown_requests == []


@pytest.mark.parametrize("stage", RETRIED_STAGES)
def test_the_client_gets_over_one_lost_connection_of_an_upload_by_itself(hub, stage):
    hub.drop_connection_at(stage)
    push(hub, OLD)
    assert hub.files(REPO) == INITIAL_FILES | OLD
    assert hub.stages().count(stage) == 2


def test_a_lost_download_is_an_error_and_the_next_one_works(hub, tmp_path):
    push(hub, OLD)
    hub.drop_connection_at("resolve")
    with pytest.raises(Exception, match="disconnected"):
        hub.api.hf_hub_download(REPO, "config.json", cache_dir=tmp_path)
    assert Path(hub.api.hf_hub_download(REPO, "config.json", cache_dir=tmp_path)).read_bytes() == OLD["config.json"]


def test_a_stage_that_does_not_exist_is_named(hub):
    with pytest.raises(ValueError, match="unknown stage 'comit'; known are create, "):
        hub.drop_connection_at("comit")


def test_a_commit_on_a_parent_that_is_no_longer_the_head_is_refused(hub):
    first = push(hub, OLD)
    push(hub, {"config.json": b"{}"}, parent_commit=first.oid[:7])
    with pytest.raises(HfHubHTTPError) as caught:
        push(hub, NEW, parent_commit=first.oid)
    assert caught.value.response.status_code == 412
    assert hub.files(REPO) == INITIAL_FILES | OLD | {"config.json": b"{}"}


@pytest.mark.parametrize(
    ("key", "value", "status"),
    [
        ("lfsFile", {"path": "model.safetensors", "algo": "sha256", "oid": "0" * 64, "size": 3}, 400),
        ("file", {"path": "../outside.txt", "content": "", "encoding": "base64"}, 400),
        ("file", {"path": "broken.txt", "content": "no base64!", "encoding": "base64"}, 400),
        ("file", {"path": "README.md", "content": base64.b64encode(b"---\n[\n---\n").decode()}, 400),
        ("deletedFile", {"path": "nowhere.txt"}, 404),
    ],
    ids=["LFS object missing", "path outside", "not base64", "card invalid", "nothing to delete"],
)
def test_one_invalid_line_refuses_the_whole_commit(hub, key, value, status):
    good = ("file", {"path": "good.txt", "content": base64.b64encode(b"good").decode(), "encoding": "base64"})
    assert post_commit(hub, good, (key, value)) == status
    assert hub.files(REPO) == INITIAL_FILES
    assert post_commit(hub, good) == 200
    assert hub.files(REPO) == INITIAL_FILES | {"good.txt": b"good"}


@pytest.mark.parametrize(
    ("sent", "size"),
    [(b"weightz", 7), (b"weights and more", 7), (b"weights", 8)],
    ids=["other content", "other size", "other size announced"],
)
def test_an_lfs_object_other_than_the_announced_one_is_refused(hub, sent, size):
    wanted = {"oid": hashlib.sha256(b"weights").hexdigest(), "size": size}
    session, headers = get_session(), {"Authorization": f"Bearer {hub.token}"}
    url = f"{hub.endpoint}/{REPO}.git/info/lfs/objects/batch"
    answer = session.post(url, headers=headers, json={"operation": "upload", "objects": [wanted]}).json()
    actions = answer["objects"][0]["actions"]
    assert session.put(actions["upload"]["href"], content=sent).status_code == 400
    assert session.post(actions["verify"]["href"], headers=headers, json=wanted).status_code == 404


def test_the_headers_of_a_file_say_what_it_is_without_sending_it(hub):
    commit = push(hub, OLD)
    answer = get_session().head(f"{hub.endpoint}/{REPO}/resolve/main/model.safetensors")
    sha256 = hashlib.sha256(OLD["model.safetensors"]).hexdigest()
    expected = {
        "X-Repo-Commit": commit.oid,
        "X-Linked-Etag": f'"{sha256}"',
        "X-Linked-Size": "11",
        "ETag": f'"{sha256}"',
    }
    assert {name: answer.headers[name] for name in expected} == expected
    assert (answer.headers["Content-Length"], answer.content) == ("11", b"")


def test_a_private_repository_needs_the_token(hub, tmp_path):
    hub.api.create_repo("tester/secret", private=True)
    assert hub.api.model_info("tester/secret").private
    path = hub.api.hf_hub_download("tester/secret", ".gitattributes", cache_dir=tmp_path / "mine")
    assert Path(path).read_bytes() == INITIAL_FILES[".gitattributes"]
    anybody = HfApi(endpoint=hub.endpoint, token=False)
    with pytest.raises(RepositoryNotFoundError):
        anybody.model_info("tester/secret")
    with pytest.raises(RepositoryNotFoundError):
        anybody.hf_hub_download("tester/secret", ".gitattributes", cache_dir=tmp_path / "anybody")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        HfApi(endpoint=hub.endpoint, token="hf_wrong").model_info("tester/secret")


def test_everybody_reads_a_public_repository_and_only_the_owner_writes(hub):
    anybody = HfApi(endpoint=hub.endpoint, token=False)
    assert anybody.list_repo_files(REPO) == list(INITIAL_FILES)
    with pytest.raises(HfHubHTTPError, match="401"):
        anybody.create_commit(REPO, [CommitOperationAdd("a.txt", b"a")], commit_message="not mine")
    with pytest.raises(HfHubHTTPError, match="401"):
        anybody.create_repo("tester/other")
    with pytest.raises(HfHubHTTPError, match="403.*namespace"):
        hub.api.create_repo("somebody/model")
    assert hub.api.whoami()["name"] == "tester"


def test_creating_what_exists_is_an_error_unless_that_is_allowed(hub):
    push(hub, OLD)
    assert hub.api.create_repo(REPO, exist_ok=True).repo_id == REPO
    with pytest.raises(HfHubHTTPError) as caught:
        hub.api.create_repo(REPO)
    assert caught.value.response.status_code == 409
    assert hub.files(REPO) == INITIAL_FILES | OLD


def test_what_is_not_there_is_told_apart(hub, tmp_path):
    with pytest.raises(RepositoryNotFoundError):
        hub.api.model_info("tester/nothing")
    with pytest.raises(RevisionNotFoundError):
        hub.api.model_info(REPO, revision="nothing")
    with pytest.raises(RemoteEntryNotFoundError):
        hub.api.hf_hub_download(REPO, "nothing.json", cache_dir=tmp_path)
    with pytest.raises(RemoteEntryNotFoundError):
        list(hub.api.list_repo_tree(REPO, "nothing"))
    assert hub.api.get_paths_info(REPO, ["nothing.json"]) == []


def test_a_tag_keeps_the_files_of_its_commit(hub, tmp_path):
    first = push(hub, OLD)
    hub.api.create_tag(REPO, tag="v1", tag_message="first")
    second = push(hub, NEW)
    path = hub.api.hf_hub_download(REPO, "config.json", revision="v1", cache_dir=tmp_path)
    assert Path(path).read_bytes() == OLD["config.json"]
    assert hub.files(REPO, "v1") == hub.files(REPO, first.oid) == INITIAL_FILES | OLD
    refs = hub.api.list_repo_refs(REPO)
    assert [(tag.name, tag.target_commit) for tag in refs.tags] == [("v1", first.oid)]
    assert [(branch.name, branch.target_commit) for branch in refs.branches] == [("main", second.oid)]
    with pytest.raises(HfHubHTTPError, match="409"):
        hub.api.create_tag(REPO, tag="v1")
    hub.api.delete_tag(REPO, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        hub.api.model_info(REPO, revision="v1")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("license: [", "while parsing a flow node"),
        ("- a list", "should be a dict"),
        ("language: [en, no]", '"language" must be a string or a list of strings, found False'),
        ("model-index: nonsense", "model-index|model_index|eval"),
    ],
)
def test_a_card_with_invalid_metadata_is_refused_before_anything_is_uploaded(hub, metadata, message):
    with pytest.raises(ValueError, match=message):
        push(hub, {"README.md": f"---\n{metadata}\n---\n# A model\n".encode()} | NEW)
    assert hub.stages() == ["create", "validate"]


def test_a_card_without_metadata_is_a_warning(hub):
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        push(hub, {"README.md": b"# A model\n"})
    assert hub.files(REPO)["README.md"] == b"# A model\n"


def test_the_information_about_a_model_comes_from_its_card_its_config_and_its_files(hub):
    commit = push(hub, OLD | {"README.md": CARD})
    info = hub.api.model_info(REPO, files_metadata=True)
    assert (info.id, info.sha, info.pipeline_tag) == (REPO, commit.oid, "audio-classification")
    assert (info.card_data.license, info.card_data.language) == ("apache-2.0", ["en", "de"])
    assert {"speech", "en", "de", "license:apache-2.0", "audio-classification"} == set(info.tags)
    assert info.config == {"model_type": "wav2vec2"}
    sizes = {path: len(content) for path, content in hub.files(REPO).items()}
    assert {sibling.rfilename: sibling.size for sibling in info.siblings} == sizes


def test_the_tree_lists_one_level_or_all(hub):
    push(hub, {"a.txt": b"a", "samples/b.txt": b"b", "samples/more/c.txt": b"c"})

    def paths(*folder: str, recursive: bool = False) -> list[str]:
        return [entry.path for entry in hub.api.list_repo_tree(REPO, *folder, recursive=recursive)]

    assert paths() == [".gitattributes", "a.txt", "samples"]
    assert paths("samples") == ["samples/b.txt", "samples/more"]
    assert paths("samples", recursive=True) == ["samples/b.txt", "samples/more", "samples/more/c.txt"]


@given(start=st.integers(0, 12), stop=st.none() | st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_a_range_is_that_slice_of_the_file(hub_with_ten_bytes, start, stop):
    hub, content = hub_with_ten_bytes
    asked = {"Range": f"bytes={start}-{'' if stop is None else stop}"}
    answer = get_session().get(f"{hub.endpoint}/{REPO}/resolve/main/ten.txt", headers=asked)
    expected = content[start : None if stop is None else stop + 1]
    assert answer.status_code == (206 if expected else 416)
    if expected:
        assert answer.content == expected
        assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(expected) - 1}/10"


@pytest.fixture(scope="module")
def hub_with_ten_bytes() -> Iterator[tuple[HubDouble, bytes]]:
    with HubDouble() as hub:
        hub.api.create_repo(REPO)
        push(hub, {"ten.txt": b"0123456789"})
        yield hub, b"0123456789"


def test_an_endpoint_that_the_double_does_not_have_is_remembered(hub):
    with pytest.raises(HfHubHTTPError, match="501"):
        list(hub.api.list_models(author="tester"))
    assert [(request.method, request.path) for request in hub.unknown_requests] == [("GET", "/api/models")]


def test_an_error_of_the_double_itself_cannot_pass_as_an_answer():
    with pytest.raises(AssertionError, match="JSONDecodeError"), HubDouble() as hub:
        headers = {"Authorization": f"Bearer {hub.token}"}
        get_session().post(f"{hub.endpoint}/api/repos/create", headers=headers, content=b"not JSON")


def test_another_process_takes_the_double_for_the_hub(hub, tmp_path):
    code = """if True:
        import sys
        from huggingface_hub import CommitOperationAdd, HfApi
        api = HfApi()
        operations = [CommitOperationAdd("model.safetensors", b"weights"), CommitOperationAdd("a.txt", b"text")]
        print(api.create_commit(sys.argv[1], operations, commit_message="from there").oid)
        print(api.whoami()["name"], open(api.hf_hub_download(sys.argv[1], "a.txt")).read())
    """
    oid, *rest = run_python(code, hub.environment(tmp_path), REPO).split()
    assert rest == ["tester", "text"]
    assert oid == hub.commits(REPO)[-1].oid
    assert hub.files(REPO) == INITIAL_FILES | {"model.safetensors": b"weights", "a.txt": b"text"}
    assert hub.unknown_requests == []
    assert (tmp_path / "hub").is_dir()


def test_transformers_loads_by_name_and_then_from_the_cache_without_asking(hub, tmp_path):
    config = {"model_type": "wav2vec2", "hidden_size": 48}
    push(hub, {"config.json": json.dumps(config).encode()})
    code = "import sys; from transformers import AutoConfig; print(AutoConfig.from_pretrained(sys.argv[1]).hidden_size)"
    assert run_python(code, hub.environment(tmp_path), REPO) == "48"
    assert hub.unknown_requests == []
    asked = len(hub.requests)
    assert asked > 0
    assert run_python(code, hub.environment(tmp_path) | {"HF_HUB_OFFLINE": "1"}, REPO) == "48"
    assert len(hub.requests) == asked
