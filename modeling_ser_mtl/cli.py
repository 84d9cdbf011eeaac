"""The `ser-mtl` command: thin, over the rooms of the package."""

import sys

import run_ser_mtl

USAGE = "usage: ser-mtl train [SETTINGS.yaml] [--option value ...]"


def main() -> None:
    """Entry point of `ser-mtl`."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(USAGE)
    elif sys.argv[1] == "train":
        run_ser_mtl.main(sys.argv[2:])
    else:
        sys.exit(f"error: unknown command {sys.argv[1]!r}; {USAGE}")


if __name__ == "__main__":
    main()
