import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoModel, Wav2Vec2Config

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.manifest import read_manifest
from modeling_ser_mtl.data.text import normalize_transcript
from modeling_ser_mtl.evaluation.describe import describe, format_description, main, measure_clips, needed_frames
from modeling_ser_mtl.evaluation.description_figure import draw_description
from modeling_ser_mtl.losses_ser_mtl import ctc_feasible


def measured(**columns: object) -> pd.DataFrame:
    """120 clips of 2 to 3 s, 4 speakers (f0, f1, m0, m1), anger and sadness in turn; nothing to warn of."""
    speakers = [f"{'fm'[index // 2 % 2]}{index // 4 % 2}" for index in range(120)]
    table = pd.DataFrame(
        {
            "manifest": "m.csv",
            "row": range(2, 122),
            "corpus": "c",
            "emotion": ["anger", "sadness"] * 60,
            "gender": [{"f": "female", "m": "male"}[speaker[0]] for speaker in speakers],
            "speaker_id": speakers,
            "transcript": [f"sentence {index}" for index in range(120)],
            "seconds": np.linspace(2, 3, 120),
            "reason": "",
        }
    ).assign(**columns)
    table["speaker"] = (table["corpus"] + "/" + table["speaker_id"]).where(table["speaker_id"] != "", "")
    table["frames"] = (table["seconds"] * 50).astype(int)
    table["needed_frames"] = table["transcript"].map(needed_frames)
    return table


def changed(column: str, rows: slice, value: object) -> pd.DataFrame:
    """`measured` with other cells in some rows."""
    values = measured()[column].astype(object)
    values.iloc[rows] = value
    return measured(**{column: values})


def test_a_sound_data_set_has_no_warning() -> None:
    assert describe(measured()).warnings == []


WARNINGS = {
    "clips that can't be used: 2, the first (m.csv row 5): too short": changed("reason", slice(3, 5), "too short"),
    "clips over 20 s: 1, the first (m.csv row 9); .*--max_seconds": changed("seconds", slice(7, 8), 20.1),
    "only one emotion: anger; .*leave the task out": measured(emotion="anger"),
    "emotions that differ in case alone: Anger, anger; .*": changed("emotion", slice(0, 60, 2), "Anger"),
    "emotions with fewer than 50 clips: sadness \\(49\\); .*": changed("emotion", slice(1, 22, 2), "anger"),
    "imbalance: anger has 11 times the clips of sadness; .*": changed("emotion", slice(0, 100), "anger"),
    "emotions of fewer than 3 speakers: fear \\(1\\); .*": measured(
        emotion=["fear" if index // 2 % 4 == 0 else "joy" for index in range(120)]
    ),
    "emotions of a alone: anger; .*": measured(corpus=["a", "b"] * 60),
    "genders beside female and male: F; .*--gender_labels": changed("gender", slice(0, 4), "F"),
    "one gender: 100% of the clips are male; .*": measured(gender="male"),
    "emotions of one gender: anger \\(100% female\\), sadness \\(100% male\\); .*": measured(
        gender=["female", "male"] * 60
    ),
    "clips without a speaker_id: 3, the first (m.csv row 2); .*": changed("speaker_id", slice(0, 3), ""),
    "fewer than 3 speakers: c/f0; .*": measured(speaker_id="f0"),
    "speakers with one clip: 1 (c/once); .*": changed("speaker_id", slice(0, 1), "once"),
    "transcripts too long for their audio: 1, the first (m.csv row 2), needs 103 frames .* has 100; .*": changed(
        "transcript", slice(0, 1), "ab" * 50 + "cc"
    ),
    "few sentences: 11 in 120 transcripts; .*": measured(transcript=[f"sentence {i % 11}" for i in range(120)]),
    "speakers in both train and test: 4 (c/f0, c/f1, c/m0, c/m1); .*": measured(split=[""] * 60 + ["test"] * 60),
    "emotions without a clip in validation: sadness; .*": measured(split=["validation", "train"] * 60),
}


@pytest.mark.parametrize("pattern", WARNINGS)
def test_what_a_practitioner_would_say_is_said_in_one_line(pattern: str) -> None:
    pattern_with_brackets = re.sub(r"(?<!\\)([()])", r"\\\1", pattern)
    found = describe(WARNINGS[pattern]).warnings
    assert sum(re.fullmatch(pattern_with_brackets, warning) is not None for warning in found) == 1, found
    assert not any("\n" in warning for warning in found)


def test_a_long_list_of_names_is_cut() -> None:
    singles = measured(speaker_id=[f"s{index:03d}" for index in range(120)])
    [warning] = [line for line in describe(singles).warnings if line.startswith("speakers with one clip")]
    assert warning.startswith("speakers with one clip: 120 (c/s000, c/s001, c/s002, c/s003, c/s004 and 115 more); ")


cells = st.fixed_dictionaries(
    {
        "corpus": st.sampled_from(["a", "b"]),
        "split": st.sampled_from(["", "train", "test"]),
        "emotion": st.sampled_from(["", "anger", "fear", "Fear"]),
        "gender": st.sampled_from(["", "female", "male", "x"]),
        "speaker_id": st.sampled_from(["", "1", "2", "3"]),
        "transcript": st.sampled_from(["", "a", "aab c"]),
        "seconds": st.floats(0.03, 30),
        "reason": st.sampled_from(["", "", "", "broken"]),
    }
)


def rows_of(records: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(records).assign(
        manifest="m.csv",
        row=range(len(records)),
        speaker=[f"{row['corpus']}/{row['speaker_id']}" if row["speaker_id"] else "" for row in records],
        frames=[round(50 * row["seconds"]) for row in records],
        needed_frames=[needed_frames(row["transcript"]) for row in records],
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(cells, min_size=1, max_size=30).filter(lambda rows: any(not row["reason"] for row in rows)))
def test_counts_are_those_of_the_usable_rows(records: list[dict]) -> None:
    description = describe(rows_of(records))
    usable = [record for record in records if not record["reason"]]

    def hours(rows: list[dict]) -> float:
        return sum(row["seconds"] for row in rows) / 3600

    def speakers(rows: list[dict]) -> int:
        return len({(row["corpus"], row["speaker_id"]) for row in rows if row["speaker_id"]})

    sets: dict[str, list[dict]] = {}
    for row in usable:
        sets.setdefault(f"{row['corpus']}, {row['split'] or 'train'}", []).append(row)
    if len(sets) > 1:
        sets["total"] = usable
    assert list(description.sets.index) == list(sets)
    for name, rows in sets.items():
        found = description.sets.loc[name]
        assert (found["clips"], found["speakers"]) == (len(rows), speakers(rows))
        assert found["hours"] == pytest.approx(hours(rows))
        for gender in {row["gender"] for row in usable} - {""}:
            assert found[f"{gender}_speakers"] == speakers([row for row in rows if row["gender"] == gender])

    for task, column in {
        "emotion": "emotion",
        "gender": "gender",
        "speaker": "speaker_id",
        "asr": "transcript",
    }.items():
        rows = [row for row in usable if row[column]]
        found = description.tasks.loc[task]
        assert (found["labelled"], found["share"]) == (len(rows), pytest.approx(len(rows) / len(usable)))
        assert found["hours"] == pytest.approx(hours(rows))

    counts = Counter(row["emotion"] for row in usable if row["emotion"])
    assert dict(description.emotions.get("clips", pd.Series(dtype=int))) == counts
    for emotion in counts:
        rows = [row for row in usable if row["emotion"] == emotion]
        assert description.emotions.loc[emotion, "speakers"] == speakers(rows)
        assert description.emotions.loc[emotion, "hours"] == pytest.approx(hours(rows))
    assert description.seconds["longest"] == max(row["seconds"] for row in usable)
    assert "\n\n" in format_description(description)


@settings(max_examples=10, deadline=None)
@given(st.lists(cells, min_size=1, max_size=30))
@example(
    [{"corpus": "a", "split": "", "emotion": "", "gender": "", "speaker_id": "", "transcript": "", "seconds": 1.0}]
)
def test_the_figure_shows_every_clip_of_any_data_set(records: list[dict]) -> None:
    clips = rows_of(records)
    figure = draw_description(clips)
    emotions, _, lengths, _ = figure.axes
    assert sum(bar.get_width() for bar in emotions.patches) == len(clips)
    assert sum(bar.get_height() for bar in lengths.patches) == pytest.approx(len(clips))
    figure.canvas.draw()


@settings(max_examples=100, deadline=None)
@given(st.text("ab ", min_size=1, max_size=12).map(normalize_transcript).filter(bool))
def test_the_needed_frames_are_the_fewest_that_ctc_can_align(transcript: str) -> None:
    labels = torch.tensor([[ord(character) for character in transcript]])
    needed = needed_frames(transcript)
    assert ctc_feasible(torch.tensor([needed]), labels)
    assert not ctc_feasible(torch.tensor([needed - 1]), labels)


def test_clips_have_the_frames_of_a_wav2vec2_encoder(tmp_path) -> None:
    lengths = [400, 719, 720, 16_000, 16_079, 16_080, 16_081]
    for index, length in enumerate(lengths):
        soundfile.write(tmp_path / f"{index}.wav", np.zeros(length), 16_000)
    (tmp_path / "m.csv").write_text("audio,text\n" + "".join(f'{i}.wav,"Oh, wood!"\n' for i in range(len(lengths))))
    table = measure_clips(read_manifest(tmp_path / "m.csv"))
    with torch.device("meta"):
        encoder = AutoModel.from_config(Wav2Vec2Config(num_hidden_layers=1))
    assert table["frames"].tolist() == encoder._get_feat_extract_output_lengths(torch.tensor(lengths)).tolist()
    assert set(table["transcript"]) == {"oh wood"} and set(table["needed_frames"]) == {8}


def test_the_command_describes_several_manifests_and_draws_the_same_figure_each_time(
    manifest, tmp_path, capsys
) -> None:
    paths = [str(manifest("a/m.csv", range(3))), str(manifest("b/m.csv", range(3, 6), emotion="", corpus="b"))]
    figures = [tmp_path / "first.svg", tmp_path / "second.svg"]
    for figure in figures:
        main([*paths, "--figure", str(figure), "--preprocessing_num_workers", "1"])
        printed = capsys.readouterr().out
        for row in (r"a +12 +0.00 +3 +2 +1", r"b +12 ", r"total +24 ", r"emotion +12 +50.0%", r"anger +6 +50.0%"):
            assert re.search(rf"^{row}", printed, re.M), printed
        assert re.search(r"^- emotions with fewer than 50 clips: anger \(6\), sadness \(6\)", printed, re.M)
    first, second = (figure.read_bytes() for figure in figures)
    assert first == second and b"<svg" in first


def test_the_command_reads_columns_of_other_names(manifest, capsys) -> None:
    path = manifest("a/m.csv", range(3))
    path.write_text(path.read_text().replace("emotion", "label", 1))
    main([str(path), "--column_mapping", "emotion=label"])
    assert re.search(r"^anger +6 +50.0%", capsys.readouterr().out, re.M)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--figure", "figure.jpeg2"], "--figure figure.jpeg2: give a name that ends with .svg, .png, .pdf"),
        (["--figure", "absent/figure.svg"], "--figure absent/figure.svg: the folder absent does not exist"),
        (["--preprocessing_num_workers", "0"], "--preprocessing_num_workers 0: give 1 or more"),
    ],
)
def test_an_option_that_cannot_be_followed_is_one_line_before_any_work(manifest, options, message) -> None:
    with pytest.raises(InputError) as caught:
        main([str(manifest("m.csv", [0])), *options])
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_manifest_without_a_usable_clip_is_named_with_the_first_reason(tmp_path) -> None:
    (tmp_path / "a.wav").write_text("no audio")
    (tmp_path / "m.csv").write_text("audio\na.wav\n")
    with pytest.raises(InputError, match=r"m\.csv: no clip can be used; the first: .*a\.wav: cannot be decoded"):
        main([str(tmp_path / "m.csv")])
