"""A run's folder onto the Hub: what is published, in one commit."""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError

from ..configuration_ser_mtl import SerMtlConfig
from ..data.errors import InputError, one_line
from ..modeling_ser_mtl import SerMtlModel
from ..processing_ser_mtl import SerMtlProcessor
from . import handler
from .model_card import write_model_card
from .run_facts import FACTS_FILE, RunFacts, check_card_options, facts_of
from .widget import FOLDER as WIDGET_FOLDER
from .widget import check_widget_samples, join_widget

RESULTS_FILE = "all_results.json"
# Files at the top of an earlier push that this one replaces as a whole.
MANAGED = ("*.safetensors", "*.safetensors.index.json", "*_ser_mtl.py", "*_results.json")
SAMPLE_SECONDS = 20.0  # of a sample on the model's page: the model reads it in one piece
ENDPOINT_REQUIREMENTS = "transformers>=5.17\nsoundfile\nsoxr\n"


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    drop_speaker_prototypes: bool = True,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    commit_message: str = "Upload model",
    license: str | None = None,
    language: Sequence[str] = (),
    dataset_names: Sequence[str] = (),
    widget_samples: Sequence[str] = (),
    token: str | None = None,
    api: HfApi | None = None,
) -> CommitInfo:
    """
    Publishes the model that a run has written, in one commit: weights, configuration, remote code, pipelines,
    processor, model card, widget samples, endpoint handler and results. Fails as a whole and can be repeated.

    Args:
        folder (`str` or `Path`): output folder of a run.
        repo_id (`str`): the repository, e.g. `org/name`; it is created where it doesn't exist.
        drop_speaker_prototypes (`bool`): publish without the class vectors of the training speakers, which are
            biometric data; embeddings don't need them.
        private (`bool`, *optional*): whether a new repository is private; by default as the account has it.
        revision (`str`, *optional*): branch, by default the main one.
        tag (`str`, *optional*): names the new commit, e.g. `v1.0`, for users to pin.
        commit_message (`str`): first line of the commit's message.
        license (`str`, *optional*), language, dataset_names (`Sequence[str]`): for the card; what is left out stays as
            the run has it.
        widget_samples (`Sequence[str]`): WAV or FLAC files that join the samples of the run on the model's page.
        token (`str`, *optional*): access token; by default the one of `hf auth login` or `HF_TOKEN`.
        api ([`HfApi`], *optional*): the client.

    Returns:
        [`CommitInfo`]: the commit.

    Raises:
        InputError: the folder holds no model of this project, or the Hub refuses or can't be reached. The Hub then
            holds a whole commit: the one before, or, if the connection was lost after it was made, this one.
    """
    api = api or HfApi()
    try:
        validate_repo_id(repo_id)
        check_card_options(license, language, dataset_names)
    except ValueError as error:
        raise InputError(one_line(error)) from error
    with tempfile.TemporaryDirectory() as temporary:
        staging = Path(temporary, "new")
        config = collect_files(folder, staging, drop_speaker_prototypes)
        facts = RunFacts.load(staging)
        samples = check_widget_samples(widget_samples, config.tasks, SAMPLE_SECONDS)
        given: dict[str, Any] = {"license": license, "languages": list(language), "datasets": list(dataset_names)}
        given["widget"] = join_widget(staging, facts.widget, samples)
        replace(facts, **{name: value for name, value in given.items() if value}).save(staging)
        try:
            # The name comes back with the account's, which the card needs.
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True, token=token).repo_id
            write_model_card(staging, repo_id)
            if revision is not None and not revision.startswith("refs/"):
                api.create_branch(repo_id, branch=revision, exist_ok=True, token=token)
            parent = api.model_info(repo_id, revision=revision, token=token)
            old = [sibling.rfilename for sibling in parent.siblings or []]
            old_samples: set[str] = set()
            if FACTS_FILE in old:
                api.hf_hub_download(repo_id, FACTS_FILE, revision=parent.sha, local_dir=temporary, token=token)
                old_samples = _samples_of(temporary)
            commit = api.create_commit(
                repo_id,
                list(_operations(staging, old, old_samples)),
                commit_message=commit_message,
                revision=revision,
                parent_commit=parent.sha,
                token=token,
            )
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise InputError(f"{repo_id}: not published ({reason}); {_advice(error)}") from error
    if tag is not None:
        try:
            tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id, token=token).tags}
            if tags.get(tag) != commit.oid:  # else the same command is repeated
                api.create_tag(repo_id, tag=tag, revision=commit.oid, token=token)
        except (HTTPError, OSError) as error:
            raise InputError(
                f"{repo_id}: published as commit {commit.oid}, but without the tag {tag} ({one_line(error)}); choose "
                "another --tag, or delete that one first"
            ) from error
    return commit


def collect_files(folder: str | Path, target: str | Path, drop_speaker_prototypes: bool) -> SerMtlConfig:
    """
    Writes into the folder `target`, which it makes, all that is published of a run in `folder`, but for the card;
    `drop_speaker_prototypes` as in [`publish`]. Returns the model's configuration.

    Raises:
        InputError: `folder` holds no model of this project, or one with weights missing.
    """
    folder, target = Path(folder), Path(target)
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        if model_type != SerMtlConfig.model_type:
            raise ValueError(f"config.json is of a {model_type} model")
        loaded: Any = SerMtlModel.from_pretrained(folder, dtype="auto", weights_only=True, output_loading_info=True)
        model, info = loaded
        if info["missing_keys"]:
            raise ValueError(f"no weights for {', '.join(sorted(info['missing_keys']))}")
        processor = SerMtlProcessor.from_pretrained(folder)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(
            f"{folder}: holds no whole model of this project ({reason}); give the output folder of a training"
        ) from error
    if drop_speaker_prototypes and model.speaker_prototypes is not None:
        model.speaker_prototypes, model.config.num_speakers = None, 0
    model.save_pretrained(target)
    processor.save_pretrained(target)
    shutil.copyfile(handler.__file__, target / "handler.py")
    (target / "requirements.txt").write_text(ENDPOINT_REQUIREMENTS, encoding="utf-8")
    facts = facts_of(folder)
    # Only the samples that were meant to be published, whatever else lies there.
    facts = replace(facts, widget=[sample for sample in facts.widget if _is_sample(sample.src)])
    facts.save(target)
    if facts.metrics:
        (target / RESULTS_FILE).write_text(json.dumps(facts.metrics, indent=4) + "\n", encoding="utf-8")
    for name in sorted({sample.src for sample in facts.widget}):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file, though {FACTS_FILE} lists it as a sample; put it back")
        (target / WIDGET_FOLDER).mkdir(exist_ok=True)
        shutil.copyfile(folder / name, target / name)
    return model.config


def _samples_of(folder: str | Path) -> set[str]:
    """The samples that a folder's `run_facts.json` lists; of another version's, none."""
    try:
        samples = RunFacts.load(folder).widget
    except InputError:
        return set()
    return {sample.src for sample in samples if _is_sample(sample.src)}


def _is_sample(name: str) -> bool:
    return Path(name).parent == Path(WIDGET_FOLDER)


def _operations(
    staging: Path, old: Sequence[str], old_samples: set[str]
) -> Iterator[CommitOperationAdd | CommitOperationDelete]:
    """Every staged file, and the end of those of an earlier push that are no longer there."""
    new = {path.relative_to(staging).as_posix(): path for path in sorted(staging.rglob("*")) if path.is_file()}
    for name, path in new.items():
        yield CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
    for name in old:
        managed = "/" not in name and any(fnmatch(name, pattern) for pattern in MANAGED)
        if name not in new and (managed or name in old_samples):
            yield CommitOperationDelete(path_in_repo=name)


def _advice(error: Exception) -> str:
    """What to do about an error of the client."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403):
        return "log in with `hf auth login`, as an account that may write there, or check the name"
    return "the repository holds a whole commit, and the same command can be repeated"


def main(argv: Sequence[str] | None = None) -> None:
    """Command line `argv` of `ser-mtl push`. Raises an [`InputError`] as [`publish`]."""
    parser = argparse.ArgumentParser(
        prog="ser-mtl push",
        description="Publishes the model of a run on the Hub, in one commit: weights, code, processor, model card, "
        "widget samples, endpoint handler and results. Predictions and lists of clips stay at home.",
    )
    parser.add_argument("folder", metavar="DIR", help="output folder of a run")
    parser.add_argument("repo_id", metavar="REPO", help="repository on the Hub, e.g. org/name; made if it isn't there")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", help="branch to push to; default: the main one")
    parser.add_argument("--tag", help="name of the new commit, for users to pin, e.g. v1.0")
    parser.add_argument("--commit_message", default="Upload model", help="default: %(default)s")
    parser.add_argument("--license", help="licence id of the Hub, e.g. cc-by-nc-4.0; default: the run's --license")
    parser.add_argument("--language", nargs="+", default=(), help="ISO 639 codes, e.g. de en; default: the run's")
    parser.add_argument("--dataset_names", nargs="+", default=(), help="data sets of the Hub; default: the run's")
    parser.add_argument(
        "--widget_samples", nargs="+", default=(), help="more WAV or FLAC files to publish as samples on the page"
    )
    parser.add_argument(
        "--keep_speaker_prototypes",
        action="store_false",
        dest="drop_speaker_prototypes",
        help="publish the class vectors of the training speakers too, which are biometric data",
    )
    print(publish(**vars(parser.parse_args(argv))).commit_url)
