"""A submission holds one valid letter per test file; what is wrong with one is told in full, in one pass."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeling_ser_mtl.configuration_ser_mtl import EMOTIONS
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.submission import LETTERS, check_submission, check_submittable, main, write_submission

NAMES = [f"MSP-PODCAST_test3_{number:04d}.wav" for number in range(1, 6)]
VALID = ["FileName,EmoClass", *(f"{name},{letter}" for name, letter in zip(NAMES, "ACDFH", strict=True))]


@pytest.fixture
def manifest(tmp_path) -> Path:
    """A manifest with five test files, a training and a validation file."""
    (tmp_path / "Audios").mkdir()
    rows = [(f"Audios/{name}", "test") for name in NAMES]
    rows += [("Audios/train.wav", "train"), ("Audios/validation.wav", "validation")]
    for audio, _ in rows:
        (tmp_path / audio).touch()
    path = tmp_path / "manifest.csv"
    pd.DataFrame(rows, columns=["audio", "split"]).to_csv(path, index=False)
    return path


@pytest.fixture
def check(manifest, tmp_path) -> Callable[..., list[str]]:
    """The problems of a submission with these lines, without its path in front."""

    def problems(*lines: str, encoding: str = "utf-8") -> list[str]:
        path = tmp_path / "submission.csv"
        path.write_text("\n".join(lines) + "\n", encoding=encoding)
        return [line.removeprefix(f"{path}").strip(": ") for line in check_submission(path, manifest)]

    return problems


def table(emotions: list[str], names: list[str] = NAMES) -> pd.DataFrame:
    return pd.DataFrame({"audio": [f"/data/Audios/{name}" for name in names], "emotion": emotions})


def test_the_letters_are_those_of_the_challenge() -> None:
    assert set(LETTERS) == set(EMOTIONS)
    assert "".join(sorted(LETTERS.values())) == "ACDFHNSU"
    assert (LETTERS["surprise"], LETTERS["sadness"]) == ("U", "S")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(emotions=st.lists(st.sampled_from(EMOTIONS), min_size=len(NAMES), max_size=len(NAMES)))
def test_what_is_written_is_valid_and_says_what_was_predicted(manifest, tmp_path, emotions) -> None:
    path = tmp_path / "new" / "submission.csv"
    write_submission(path, table(emotions))
    assert check_submission(path, manifest) == []
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    assert header == "FileName,EmoClass"
    initials = {"surprise": "U"}
    expected = [initials.get(emotion, emotion[0].upper()) for emotion in emotions]
    assert [row.split(",") for row in rows] == [list(pair) for pair in zip(NAMES, expected, strict=True)]


def test_an_emotion_without_a_letter_is_refused_before_anything_is_written(tmp_path) -> None:
    with pytest.raises(InputError, match="'calm' has no letter in the challenge; its classes are anger, contempt"):
        write_submission(tmp_path / "submission.csv", table(["anger"] * 4 + ["calm"]))
    assert not (tmp_path / "submission.csv").exists()


def test_two_clips_of_one_name_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=f"two test clips are named {NAMES[0]}"):
        write_submission(tmp_path / "submission.csv", table(["anger"] * 2, [NAMES[0]] * 2))


def test_a_run_that_cannot_end_in_a_valid_submission_is_refused() -> None:
    check_submittable(EMOTIONS)
    with pytest.raises(InputError, match="'other' has no letter"):
        check_submittable([*EMOTIONS, "other"])
    with pytest.raises(InputError, match=r"2 test clip\(s\) can't be used, the first is b.wav"):
        check_submittable(EMOTIONS, ["b.wav", "c.wav"])


def test_a_valid_submission_has_no_problems(check) -> None:
    assert check(*VALID) == []
    assert check(*VALID, encoding="utf-8-sig") == []
    assert check(VALID[0], *reversed(VALID[1:])) == []


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (VALID[:-1], f"{NAMES[4]} is missing; add its row"),
        ([*VALID, VALID[1]], f"row 7: {NAMES[0]} is there again, first in row 2; keep one row"),
        ([*VALID, "train.wav,A"], "row 7: 'train.wav' is no test file of"),
        ([*VALID[:-1], f"{NAMES[4]},O"], f"row 6: the letter of {NAMES[4]} is 'O'; allowed: A, C, D, F, H, N, S, U"),
        ([*VALID[:-1], f"{NAMES[4]},a"], f"row 6: the letter of {NAMES[4]} is 'a'"),
        ([*VALID[:-1], f"{NAMES[4]},"], f"row 6: the letter of {NAMES[4]} is ''"),
        ([*VALID[:-1], NAMES[4]], "row 6: 1 cells; must be 2"),
        ([*VALID[:-1], f"{NAMES[4]},A,0.9"], "row 6: 3 cells; must be 2"),
        (["Filename,Prediction", *VALID[1:]], "row 1: the header is Filename,Prediction; must be FileName,EmoClass"),
        (VALID[1:], f"row 1: the header is {NAMES[0]},A; must be FileName,EmoClass"),
    ],
)
def test_one_mistake_is_one_problem(check, lines, problem) -> None:
    (found,) = check(*lines)
    assert found.startswith(problem)


def test_all_mistakes_are_found_in_one_pass(check) -> None:
    found = check("name,class", VALID[1], VALID[1], f"{NAMES[1]},Z", "stranger.wav,X")
    missing = [f"{name} is missing; add its row" for name in NAMES[2:]]
    assert [line.split(":")[0] for line in found] == ["row 1", "row 3", "row 4", "row 5", "row 5", *missing]


def test_a_manifest_without_splits_names_test_files_only(tmp_path, manifest) -> None:
    rows = pd.read_csv(manifest).drop(columns="split").iloc[:5]
    rows.to_csv(tmp_path / "test.csv", index=False)
    write_submission(tmp_path / "submission.csv", table(["anger"] * 5))
    assert check_submission(tmp_path / "submission.csv", tmp_path / "test.csv") == []


def test_a_manifest_without_test_files_is_an_error(tmp_path, manifest) -> None:
    pd.read_csv(manifest).replace("test", "train").to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(InputError, match="no row has the split 'test'"):
        check_submission(tmp_path / "submission.csv", tmp_path / "train.csv")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"", "is empty"), (b"\xff\xfe\x00", "could not be read as CSV")]
)
def test_a_file_that_is_no_submission_is_an_error(tmp_path, manifest, content, message) -> None:
    if content is not None:
        (tmp_path / "submission.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        check_submission(tmp_path / "submission.csv", manifest)


def test_the_command_prints_every_problem_and_ends_with_code_2(tmp_path, manifest, capsys) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("\n".join([*VALID[:-1], "stranger.wav,Z"]), encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        main([str(path), str(manifest)])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"error: {path}") for line in lines)


def test_the_command_shows_a_hundred_problems_and_counts_the_rest(tmp_path, manifest, capsys) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("\n".join([*VALID, *(f"{number}.wav,A" for number in range(130))]), encoding="utf-8")
    with pytest.raises(SystemExit):
        main([str(path), str(manifest)])
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {path}: 30 more problems"


def test_the_command_says_that_a_submission_is_valid(tmp_path, manifest, capsys) -> None:
    write_submission(tmp_path / "submission.csv", table(["anger"] * 5))
    main([str(tmp_path / "submission.csv"), str(manifest)])
    assert "valid, one letter for each" in capsys.readouterr().out
