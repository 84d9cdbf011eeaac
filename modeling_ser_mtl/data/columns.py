"""Options that give the data's own names for ours: `--column_mapping emotion=label`, `--dataset_splits test=dev`."""

import difflib
from collections.abc import Mapping, Sequence

from .errors import InputError

LABEL_COLUMNS = ("emotion", "gender", "speaker_id", "text")
COLUMNS = ("audio", *LABEL_COLUMNS, "corpus", "split")


def parse_names(items: Sequence[str], option: str, ours: Sequence[str]) -> dict[str, str]:
    """
    Reads pairs of one of our names and the data's.

    Args:
        items (`Sequence[str]`): `<ours>=<theirs>` each.
        option (`str`): The flag, for messages, e.g. `--column_mapping`.
        ours (`Sequence[str]`): Our names.

    Returns:
        `dict[str, str]`: Their name by ours.

    Raises:
        InputError: An item is no such pair, or one of our names is unknown or given twice.
    """
    names: dict[str, str] = {}
    for item in items:
        name, _, theirs = (part.strip() for part in item.partition("="))
        if not name or not theirs:
            raise InputError(f"{option} {item}: give pairs such as {ours[0]}=NAME, ours first")
        if name not in ours:
            raise InputError(f"{option} {item}: {name!r} is unknown{_nearest(name, ours)}; allowed: {', '.join(ours)}")
        if name in names:
            raise InputError(f"{option} {item}: {name} is {names[name]!r} already; give it one name")
        names[name] = theirs
    return names


def parse_column_mapping(items: Sequence[str]) -> dict[str, str]:
    """
    Reads `--column_mapping`.

    Args:
        items (`Sequence[str]`): `<column of a manifest>=<column of the data>` each, e.g. `emotion=label`.

    Returns:
        `dict[str, str]`: The data's column by ours.

    Raises:
        InputError: As in [`parse_names`], or a column of the data is given twice.
    """
    mapping = parse_names(items, "--column_mapping", COLUMNS)
    meaning: dict[str, str] = {}
    for column, source in mapping.items():
        if meaning.setdefault(source, column) != column:
            raise InputError(
                f"--column_mapping {column}={source}: {source!r} is {meaning[source]} already; give it one meaning"
            )
    return mapping


def check_column_mapping(found: Sequence[str], mapping: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """
    Checks that columns can be renamed by a mapping.

    Args:
        found (`Sequence[str]`): The data's columns.
        mapping (`Mapping[str, str]`): As of [`parse_column_mapping`].

    Returns:
        `dict[str, tuple[str, str]]`: For each of our columns that can't come by its new name the kind of
        [`~data.checks.KINDS`] and a message.
    """
    wrong = {}
    for column, source in mapping.items():
        pair = f"--column_mapping {column}={source}"
        if source not in found:
            message = f"column {source!r} of {pair} is missing{_nearest(source, found)}; found: {', '.join(found)}"
            wrong[column] = "missing-column", message
        elif column in found and column not in mapping.values():
            message = (
                f"{pair}, but there is a column {column!r} already; leave out the pair, or rename or drop that one"
            )
            wrong[column] = "duplicate-column", message
    return wrong


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""
