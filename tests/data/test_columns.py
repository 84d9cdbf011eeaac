import pandas as pd
import pytest

from modeling_ser_mtl.data.columns import parse_column_mapping, parse_names
from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.manifest import read_manifest, read_manifests

MAPPING = ["audio=file", "emotion=label", "speaker_id=actor", "text=transcription"]


@pytest.fixture
def foreign(clips, tmp_path):
    """Writes four clips under other column names, in a format by its suffix, beside columns of its own."""

    def write(suffix: str = "csv", **columns: object):
        rows = clips.iloc[:4].rename(
            columns={"audio": "file", "emotion": "label", "speaker_id": "actor", "text": "transcription"}
        )
        rows = rows.assign(take="2", **columns)
        path = tmp_path / f"foreign.{suffix}"
        if suffix == "jsonl":
            rows.to_json(path, orient="records", lines=True)
        elif suffix == "parquet":
            rows.to_parquet(path)
        else:
            rows.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
        return path

    return write


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_manifest_under_other_names_is_the_one_under_ours(foreign, clips, tmp_path, suffix) -> None:
    ours = tmp_path / "ours.csv"
    clips.iloc[:4].assign(take="2").to_csv(ours, index=False)
    mapped = read_manifests([foreign(suffix)], ["emotion", "text"], column_mapping=parse_column_mapping(MAPPING))
    columns = ["audio", "emotion", "gender", "speaker_id", "text", "take", "speaker", "audio_path"]
    pd.testing.assert_frame_equal(mapped[columns], read_manifest(ours)[columns])
    assert not {"file", "label", "actor", "transcription"} & set(mapped.columns)


def test_columns_can_change_places(clips, tmp_path) -> None:
    path = tmp_path / "swapped.csv"
    clips.iloc[:4].rename(columns={"emotion": "gender", "gender": "emotion"}).to_csv(path, index=False)
    table = read_manifests([path], column_mapping={"emotion": "gender", "gender": "emotion"})
    assert table["emotion"].tolist() == clips["emotion"][:4].tolist()
    assert table["gender"].tolist() == clips["gender"][:4].tolist()


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (["emotions=label"], "'emotions' is unknown, did you mean 'emotion'?; allowed: audio, emotion, gender"),
        (["mood=label"], "--column_mapping mood=label: 'mood' is unknown; allowed: audio"),
        (["emotion=label", "emotion=actor"], "--column_mapping emotion=actor: emotion is 'label' already"),
        (["emotion=label", "text=label"], "--column_mapping text=label: 'label' is emotion already"),
        (["emotion"], "--column_mapping emotion: give pairs such as audio=NAME"),
        (["emotion="], "--column_mapping emotion=: give pairs"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_one_line(items, says) -> None:
    with pytest.raises(InputError) as error:
        parse_column_mapping(items)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_column_that_is_not_there_is_named_with_the_nearest(foreign) -> None:
    mapping = parse_column_mapping(["audio=file", "emotion=lable"])
    says = (
        "row 1: column 'lable' of --column_mapping emotion=lable is missing, did you mean 'label'?; found: file, label"
    )
    with pytest.raises(InputError, match=says.replace("?", r"\?")) as error:
        read_manifests([foreign()], ["emotion"], column_mapping=mapping)
    assert "\n" not in str(error.value)


def test_a_column_of_our_name_beside_the_mapped_one_is_an_error(foreign) -> None:
    says = r"--column_mapping emotion=label, but there is a column 'emotion' already"
    with pytest.raises(InputError, match=says) as error:
        read_manifests([foreign(emotion="joy")], ["emotion"], column_mapping=parse_column_mapping(MAPPING))
    assert "\n" not in str(error.value)


def test_a_missing_column_tells_of_the_option(foreign) -> None:
    with pytest.raises(InputError, match="column 'audio' is missing; .* give it in --column_mapping"):
        read_manifest(foreign())


def test_a_split_may_be_any_expression() -> None:
    sets = ("train", "validation", "test")
    names = parse_names(["train=train+extra", "test=session5[:80%]"], "--dataset_splits", sets)
    assert names == {"train": "train+extra", "test": "session5[:80%]"}
    with pytest.raises(
        InputError, match="--dataset_splits dev=dev: 'dev' is unknown; allowed: train, validation, test"
    ):
        parse_names(["dev=dev"], "--dataset_splits", sets)
