"""The one error type that reaches a user as a single line."""


class InputError(ValueError):
    """A mistake in what the user gave: one line that names the file, row or field, what was found and what to do."""


def one_line(error: Exception) -> str:
    """The message of `error` without line breaks, at most 300 characters."""
    return " ".join(str(error).split())[:300]
