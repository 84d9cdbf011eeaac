"""The `ser-mtl` command: thin, over the rooms of the package."""

import difflib
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from .data.errors import InputError

# Where each command's `main` is. Only the one that is called is imported: most need less than training does.
COMMANDS = {
    "train": ("run_ser_mtl", "train, evaluate, predict and save: ser-mtl train SETTINGS.yaml --option value ..."),
    "cross-validate": (
        ".training.cross_validation",
        "train and test every fold: ser-mtl cross-validate SETTINGS.yaml --output_dir DIR --option value ...",
    ),
    "prepare": (
        ".data.corpora.prepare",
        "write the manifest of a known corpus: ser-mtl prepare NAME FOLDER --output FILE",
    ),
    "describe": (".evaluation.describe", "count and judge manifests: ser-mtl describe MANIFEST ... --figure FILE.svg"),
    "check-submission": (".data.submission", "check a submission: ser-mtl check-submission FILE MANIFEST"),
    "push": (".hub.push", "publish a run on the Hub: ser-mtl push DIR REPO"),
    "export-stock": (
        ".training.export_stock",
        "write a twin without remote code: ser-mtl export-stock DIR OUT --clips ...",
    ),
}
USAGE = "\n".join(["usage: ser-mtl COMMAND ...", "", *(f"  {name:<18}{text}" for name, (_, text) in COMMANDS.items())])


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `ser-mtl`, with `argv` in place of the command line's; a user's mistake is one line and code 2."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    # Arrow's own allocator takes huge pages, 25 MiB more for a manifest of 100,000 rows; read as Arrow is imported.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE)
        return
    try:
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COMMANDS)}"
            raise InputError(f"unknown command {name!r}; {hint}")
        import_module(COMMANDS[name][0], __package__).main(rest)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
