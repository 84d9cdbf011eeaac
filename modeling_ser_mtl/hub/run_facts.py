"""What a run knows about itself: the facts that its model card tells."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.errors import InputError
from .widget import WidgetSample

FACTS_FILE = "run_facts.json"


def check_card_options(
    license: str | None = None, language: Sequence[str] | None = None, dataset_names: Sequence[str] | None = None
) -> None:
    """
    Checks what a user says about a model for its card, before anything is done.

    Args:
        license (`str`, *optional*): an id of the Hub.
        language (`Sequence[str]`, *optional*): ISO 639 codes, or multilingual.
        dataset_names (`Sequence[str]`, *optional*): data sets of the Hub.

    Raises:
        ValueError: one of them has another form.
    """
    if license is not None and not re.fullmatch("[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(f"--license {license}: give a licence id of the Hub, e.g. apache-2.0, cc-by-nc-4.0")
    for code in language or []:
        if not re.fullmatch("[a-z]{2,3}|multilingual", code):
            raise ValueError(f"--language {code}: give ISO 639 codes, e.g. de en, or multilingual")
    for name in dataset_names or []:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise ValueError(f"--dataset_names {name}: give data sets of the Hub, e.g. org/name") from error


def simplified(corpus: str) -> str:
    """The name that `corpus` has in metrics, in [a-z0-9_]: see [`~evaluation.metrics.compute_metrics`]."""
    return re.sub("[^a-z0-9]+", "_", corpus.lower())


@dataclass(frozen=True)
class SplitFacts:
    """
    One set of clips.

    Args:
        clips (`int`): number of clips.
        hours (`float`, *optional*): their length together; None where they are streamed.
        speakers (`int`): known speakers.
        labelled (`dict[str, int]`): clips with a label, by task of the model.
        corpora, emotions, genders (`dict[str, int]`): clips by corpus, by emotion and by gender.
        unknown_speakers (`int`, *optional*): clips whose speaker is unknown; None where nobody counted.
        trained_speakers (`int`): known speakers that are in the training set, too; 0 for that set itself.
    """

    clips: int
    hours: float | None
    speakers: int
    labelled: dict[str, int]
    corpora: dict[str, int]
    emotions: dict[str, int]
    genders: dict[str, int]
    unknown_speakers: int | None = None
    trained_speakers: int = 0


@dataclass(frozen=True)
class RunFacts:
    """
    The facts of a training run, kept as `run_facts.json` beside the model, whose configuration tells what it is. A
    later evaluation into the same folder changes neither them nor the card.

    Args:
        name (`str`): name of the output folder.
        splits (`dict[str, SplitFacts]`): the sets of the run: train, validation, test.
        metrics (`dict[str, float]`): what the run measured on them, with prefixes.
        license (`str`, *optional*): licence of the model, an id of the Hub; None where none was given.
        languages (`list[str]`): codes of the languages of the training data; empty where unknown.
        datasets (`list[str]`): data sets of the Hub.
        base_model (`str`, *optional*): the model of the Hub that training started from.
        from_scratch (`bool`): whether training started from random weights.
        synthetic (`bool`): whether the training data is the synthetic corpus.
        settings (`dict[str, Any]`): what the user gave, see [`~training.facts.given_settings`].
        hyperparameters (`dict[str, Any]`): how the model was trained, defaults included.
        environment (`dict[str, str]`): versions and the kind of device.
        widget (`list[WidgetSample]`): samples of the model page.
    """

    name: str
    splits: dict[str, SplitFacts] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    license: str | None = None
    languages: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    base_model: str | None = None
    from_scratch: bool = False
    synthetic: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    widget: list[WidgetSample] = field(default_factory=list)

    def trained(self, tasks: Sequence[str]) -> list[str]:
        """
        Those of the model's `tasks` that had a label to learn from; all where the training set is unknown.

        Args:
            tasks (`Sequence[str]`): tasks of the model.
        """
        if "train" not in self.splits:
            return list(tasks)
        return [task for task in tasks if self.splits["train"].labelled.get(task, 0)]

    def to_json(self) -> str:
        """The facts as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunFacts":
        """
        The facts that [`RunFacts.to_json`] wrote.

        Args:
            text (`str`): JSON.

        Raises:
            `ValueError`, `TypeError`, `KeyError` or `AttributeError`: the text is something else.
        """
        values = json.loads(text)
        splits = {name: SplitFacts(**split) for name, split in values["splits"].items()}
        return cls(**(values | {"splits": splits, "widget": [WidgetSample(**sample) for sample in values["widget"]]}))

    def save(self, folder: str | Path) -> None:
        """
        Writes `run_facts.json`.

        Args:
            folder (`str` or `Path`): output folder of the run.
        """
        (Path(folder) / FACTS_FILE).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "RunFacts":
        """
        Reads `run_facts.json`.

        Args:
            folder (`str` or `Path`): output folder of the run.

        Raises:
            InputError: the file is missing, or holds something else.
        """
        path = Path(folder) / FACTS_FILE
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: no such file; give the output folder of a training run") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path}: does not hold the facts of a run ({error}); train again") from error


def facts_of(folder: str | Path) -> RunFacts:
    """
    What is known of the model in a folder. A checkpoint within a run has the set-up of the run, but not its metrics and
    samples, which are those of the final model. A model that no run of ours wrote has a name alone.

    Args:
        folder (`str` or `Path`): output folder of a run, one of its `checkpoint-N`, or a folder with a model.

    Raises:
        InputError: `run_facts.json` holds something else.
    """
    if Path(folder, FACTS_FILE).is_file():
        return RunFacts.load(folder)
    folder = Path(folder).resolve()
    if re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", folder.name) and (folder.parent / FACTS_FILE).is_file():
        facts = RunFacts.load(folder.parent)
        hyperparameters = facts.hyperparameters | {"checkpoint": folder.name}
        return replace(facts, hyperparameters=hyperparameters, metrics={}, widget=[])
    return RunFacts(folder.name)
