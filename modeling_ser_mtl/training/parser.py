"""Flags, one YAML or JSON file, or a file followed by flags that override it."""

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from ..configuration_ser_mtl import TASKS
from ..data.errors import InputError, one_line
from .arguments import (
    FINE_TUNING_DEFAULTS,
    FROM_SCRATCH_DEFAULTS,
    DataArguments,
    ModelArguments,
    SerMtlTrainingArguments,
)

FILE_SUFFIXES = (".yaml", ".yml", ".json")


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; --help lists the options")


def parse_arguments(
    argv: Sequence[str],
) -> tuple[ModelArguments, DataArguments, SerMtlTrainingArguments]:
    """
    Parses a command line: flags, or a YAML/JSON file, or a file followed by flags that override it.

    Args:
        argv (`Sequence[str]`): the command line without the program's name.

    Returns:
        The three groups of arguments, with the defaults of training from scratch where `--config_name` is given alone,
        and of fine-tuning elsewhere.

    Raises:
        InputError: a file that can't be read, an unknown key or flag (the nearest name is given), a value of the wrong
            type.
    """
    groups: Any = (ModelArguments, DataArguments, SerMtlTrainingArguments)
    parser = _Parser(groups, prog="run_ser_mtl.py", allow_abbrev=False)
    actions = {action.dest: action for action in parser._actions}
    argv = list(argv)
    values: dict[str, Any] = {}
    if argv and argv[0].endswith(FILE_SUFFIXES):
        path = argv.pop(0)
        values = _read_file(path)
        for key, value in values.items():
            if key not in actions:
                raise InputError(f"{path}: unknown key {key!r}{_nearest(key, actions)}")
            if isinstance(value, dict) and actions[key].nargs == "+":
                values[key] = [f"{name}={item}" for name, item in value.items()]
            elif actions[key].nargs == "+" and not isinstance(value, list):
                values[key] = None if value is None else [value]
            if isinstance(values[key], list):
                values[key] = [str(item) for item in values[key]]
            elif isinstance(value, int | float) and not isinstance(value, bool):
                values[key] = str(value)  # argparse applies the option's type to strings only
    elif argv and not argv[0].startswith("-"):
        raise InputError(f"{argv[0]}: a settings file ends in {', '.join(FILE_SUFFIXES)}; flags begin with --")

    parser.set_defaults(**values)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        flag = next((item for item in unknown if item.startswith("-")), unknown[0])
        raise InputError(f"unknown option {flag}{_nearest(flag.lstrip('-').split('=')[0], actions, '--')}")
    from_scratch = namespace.config_name is not None and namespace.model_name_or_path is None
    parser.set_defaults(**{**(FROM_SCRATCH_DEFAULTS if from_scratch else FINE_TUNING_DEFAULTS), **values})
    try:
        model_args, data_args, args = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
        return model_args, data_args, args
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(one_line(error)) from error


def parse_task_weights(items: Sequence[str] | None) -> dict[str, float] | None:
    """
    Weights of tasks from the command line.

    Args:
        items (`Sequence[str]`, *optional*): `<task>=<number>` each, e.g. `["emotion=1", "gender=.1"]`.

    Returns:
        `dict[str, float]`: weight by task; None without `items`.

    Raises:
        InputError: an unknown task, or something else than a number.
    """
    if items is None:
        return None
    weights = {}
    for item in items:
        task, _, weight = item.partition("=")
        try:
            weights[task] = float(weight)
        except ValueError:
            raise InputError(f"--task_weights {item}: give task=number, e.g. gender=.1") from None
        if task not in TASKS:
            raise InputError(f"--task_weights {item}: unknown task; allowed: {', '.join(TASKS)}")
    return weights


def parse_prior_correction(value: str | None) -> float | None:
    """
    The exponent that `--prior_correction` gives; None where it is chosen later or left as it is.

    Args:
        value (`str`, *optional*): a number of 0 or more, or `"auto"`.

    Raises:
        InputError: something else.
    """
    if value is None or value == "auto":
        return None
    try:
        exponent = float(value)
    except ValueError:
        exponent = -1.0
    if not 0 <= exponent < float("inf"):
        raise InputError(f"--prior_correction {value}: give a number, 0 (off) or more (1: full), or auto")
    return exponent


def _read_file(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; give a YAML or JSON file of settings")
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
    except (UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: could not be read ({one_line(error)})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: found {type(values).__name__}; a settings file maps option names to values")
    return values


def _nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else "; --help lists the options"
