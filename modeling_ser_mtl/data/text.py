"""Transcripts: one normal form for ASR targets and WER references, and the character vocabulary of CTC."""

import unicodedata
from collections.abc import Iterable


def normalize_transcript(text: str) -> str:
    """
    Brings a transcript into the form that the ASR head learns and that WER and CER compare.

    NFKC, lower case, punctuation and symbols (Unicode categories P and S) dropped except the apostrophe, with the
    typographic one (U+2019) written as `'`, white space collapsed.

    Args:
        text (`str`): A transcript in any script.

    Returns:
        `str`: The normalised transcript, `""` when nothing but punctuation was there.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    # Symbols go too: "|" is one of them, and it delimits words in the vocabulary.
    kept = "".join(
        character for character in text if character == "'" or unicodedata.category(character)[0] not in "PS"
    )
    # Once more, since an accent may have met its letter when what stood between them was dropped.
    return " ".join(unicodedata.normalize("NFKC", kept).split())


def build_vocabulary(transcripts: Iterable[str]) -> dict[str, int]:
    """
    Character vocabulary for a `Wav2Vec2CTCTokenizer`.

    Args:
        transcripts (`Iterable[str]`): Transcripts as [`normalize_transcript`] returns them.

    Returns:
        `dict[str, int]`: `"<pad>"` 0 (the CTC blank), `"<unk>"` 1, `"|"` 2 (word delimiter, stands for the space), then
        the characters of the transcripts in code point order.
    """
    characters = set().union(*transcripts) - {" ", "|"}
    return {token: i for i, token in enumerate(["<pad>", "<unk>", "|", *sorted(characters)])}
