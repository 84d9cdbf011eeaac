"""Every known corpus, laid out in miniature as it is released."""

from dataclasses import dataclass, field

import pytest

from modeling_ser_mtl.configuration_ser_mtl import EMOTIONS
from modeling_ser_mtl.data.audio import load_audio
from modeling_ser_mtl.data.corpora import CORPORA
from modeling_ser_mtl.data.corpora.prepare import read_corpus
from modeling_ser_mtl.data.errors import InputError

KNOWN_EMOTIONS = {*EMOTIONS, "calm", "boredom", "excitement", "frustration", "other"}


@dataclass(frozen=True)
class Miniature:
    """
    Args:
        name: of the corpus.
        rows: audio file -> emotion, gender, speaker_id, text.
        columns: further columns, in the order of `rows`.
        lists: the corpus' own lists, and what they hold.
        missing: files that are listed, all of them or (where `num_missing` is more) some.
        num_missing: how many files are missing.
        unexpected: audio files that are there and no clips.
        ignored: audio files of the release that are neither clips nor worth a word.
    """

    name: str
    rows: dict[str, tuple[str, str, str, str]]
    columns: dict[str, list[str]] = field(default_factory=dict)
    lists: dict[str, str | bytes] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    num_missing: int = 0
    unexpected: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


SESSION_1 = "IEMOCAP_full_release/Session1"
SESSION_2 = "IEMOCAP_full_release/Session2"
IEMOCAP_LISTS: dict[str, str | bytes] = {
    f"{SESSION_1}/dialog/EmoEvaluation/Ses01F_impro01.txt": (
        "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\n"
        "C-E2:\tNeutral;\t()\nC-E3:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n\n"
        "[10.0100 - 11.3925]\tSes01F_impro01_M000\texc\t[4.5000, 3.5000, 3.0000]\n"
        "C-E2:\tExcited;\t()\n\n"
        "[14.8872 - 18.0175]\tSes01F_impro01_F001\txxx\t[2.0000, 2.5000, 3.0000]\n\n"
        "[19.2900 - 20.7875]\tSes01F_impro01_M001\tfru\t[2.0000, 3.5000, 3.0000]\n\n"
        "[21.3257 - 24.7400]\tSes01F_impro01_F002\tzzz\t[2.0000, 3.5000, 3.0000]\n"
    ),
    f"{SESSION_1}/dialog/EmoEvaluation/Categorical/Ses01F_impro01_e1_cat.txt": "Ses01F_impro01_F000 :Neutral; ()\n",
    f"{SESSION_1}/dialog/transcriptions/Ses01F_impro01.txt": (
        "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\n"
        "Ses01F_impro01_M000 [010.0100-011.3925]: Yeah.\n"
        "Ses01F_impro01_F001 [014.8872-018.0175]: Is there a problem?\n"
        "Ses01F_impro01_M001 [019.2900-020.7875]: You did.\n"
    ),
    f"{SESSION_2}/dialog/EmoEvaluation/Ses02M_script01_1.txt": (
        "[8.0000 - 9.0000]\tSes02M_script01_1_F000\tsad\t[1.5000, 2.0000, 1.5000]\n"
        "[9.0000 - 9.5000]\tSes02M_script01_1_M000\thap\t[4.0000, 3.0000, 3.0000]\n"
    ),
    f"{SESSION_2}/dialog/transcriptions/Ses02M_script01_1.txt": (
        "Ses02M_script01_1_F000 [8.0000-9.0000]: No [LAUGHTER].\n"
    ),
}
MELD_HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season\n"


def iemocap(name: str, neutral: str, excited: str, frustrated: str, sad: str) -> Miniature:
    """The same files for each choice of classes; the arguments are the emotions of its clips."""
    dialogue = f"{SESSION_1}/sentences/wav/Ses01F_impro01/Ses01F_impro01"
    return Miniature(
        name=name,
        rows={
            f"{dialogue}_F000.wav": (neutral, "female", "Ses01F", "Excuse me."),
            f"{dialogue}_F001.wav": ("", "female", "Ses01F", "Is there a problem?"),
            f"{dialogue}_M000.wav": (excited, "male", "Ses01M", "Yeah."),
            f"{dialogue}_M001.wav": (frustrated, "male", "Ses01M", "You did."),
            f"{SESSION_2}/sentences/wav/Ses02M_script01_1/Ses02M_script01_1_F000.wav": (
                *(sad, "female", "Ses02F", "No [LAUGHTER]."),
            ),
        },
        columns={
            "session": ["1", "1", "1", "1", "2"],
            "valence": ["2.5000", "2.0000", "4.5000", "2.0000", "1.5000"],
            "corpus": ["iemocap"] * 5,
        },
        lists=IEMOCAP_LISTS,
        missing=("Session2/sentences/wav/Ses02M_script01_1/Ses02M_script01_1_M000.wav",),
        num_missing=1,
        unexpected=(f"{dialogue}_F002.wav", f"{dialogue}_F003.wav"),  # an unknown code, not on the list
        ignored=(f"{SESSION_1}/dialog/wav/Ses01F_impro01.wav",),
    )


MINIATURES = [
    Miniature(
        name="ravdess",
        rows={
            "Actor_01/03-01-06-01-02-01-01.wav": ("fear", "male", "01", "Dogs are sitting by the door"),
            "Actor_02/03-01-08-02-01-02-02.wav": ("surprise", "female", "02", "Kids are talking by the door"),
        },
        columns={"intensity": ["normal", "strong"]},
        missing=("Actor_01/03-01-01-01-01-01-01.wav", "Actor_24/03-01-08-02-02-02-24.wav"),
        num_missing=1438,
        unexpected=(
            "Actor_01/03-02-06-01-02-01-01.wav",  # song
            "Actor_02/03-01-09-01-01-01-02.wav",  # emotions end with 08
            "Actor_25/03-01-01-01-01-01-25.wav",  # actors end with 24
            "audio_speech_actors_01-24/Actor_01/03-01-06-01-02-01-01.wav",  # a clip again
        ),
    ),
    Miniature(
        name="emodb",
        rows={
            "wav/03a01Fa.wav": ("happiness", "male", "03", "Der Lappen liegt auf dem Eisschrank."),
            "wav/16b10Lb.wav": ("boredom", "female", "16", "Die wird auf dem Platz sein, wo wir sie immer hinlegen."),
        },
        unexpected=("wav/03a01Xa.wav", "wav/03a03Fa.wav", "wav/04a01Fa.wav", "wav/readme.wav"),
    ),
    Miniature(
        name="nemo",
        rows={
            "samples/EB0_surprised_1.wav": ("surprise", "female", "EB0", "Lubię czytać przed snem."),
            "samples/WR0_anger_90.wav": ("anger", "male", "WR0", "„Ród smoka” to serial, nie film."),
        },
        columns={"age": ["27", "23"]},
        lists={
            "data.tsv": "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage\n"
            "WR0_anger_90.wav\tanger\t„Ród smoka” to serial, nie film.\tród smoka\t        WR0\tmale\t23\n"
            "EB0_surprised_1.wav\tsurprised\tLubię czytać przed snem.\tlubię\t        EB0\tfemale\t27\n"
            "EB0_rage_2.wav\trage\tLubię.\tlubię\t        EB0\tfemale\t27\n"
            "EB0_fear_3.wav\tfear\tLubię.\tlubię\t        EB0\tfemale\t27\n"
        },
        missing=("samples/EB0_fear_3.wav",),
        num_missing=1,
        unexpected=("samples/EB0_fear_4.wav", "samples/EB0_rage_2.wav"),
    ),
    Miniature(
        name="librispeech",
        rows={
            "LibriSpeech/dev-clean/1272/128104/1272-128104-0000.flac": ("", "male", "1272", "MISTER QUILTER IS"),
            "LibriSpeech/test-other/367/130732/367-130732-0001.flac": ("", "female", "367", "AND SHE'S HERE"),
            "LibriSpeech/train-clean-100/19/198/19-198-0000.flac": ("", "female", "19", "NORTHANGER ABBEY"),
        },
        columns={
            "split": ["validation", "test", "train"],
            "subset": ["dev-clean", "test-other", "train-clean-100"],
        },
        lists={
            "LibriSpeech/SPEAKERS.TXT": ";ID  |SEX| SUBSET           |MINUTES| NAME\n"
            "19   | F | train-clean-100  | 25.19 | Kara Shallenberg\n"
            "60   | M | train-clean-100  | 20.18 | |CBW|Simon\n"
            "367  | F | test-other       | 8.04  | An Reader\n"
            "1272 | M | dev-clean        | 8.06  | Another Reader\n",
            "LibriSpeech/dev-clean/1272/128104/1272-128104.trans.txt": "1272-128104-0000 MISTER QUILTER IS\n"
            "1272-128104-0001 NOR IS MISTER QUILTER'S MANNER\n",
            "LibriSpeech/test-other/367/130732/367-130732.trans.txt": "367-130732-0001 AND SHE'S HERE\n",
            "LibriSpeech/train-clean-100/19/198/19-198.trans.txt": "19-198-0000 NORTHANGER ABBEY\n",
            "LibriSpeech/extra-clean/19/199/19-199.trans.txt": "19-199-0000 NO SUCH SUBSET\n",
        },
        missing=("dev-clean/1272/128104/1272-128104-0001.flac",),
        num_missing=1,
        unexpected=(
            "LibriSpeech/dev-clean/1272/128104/1272-128104-0009.flac",
            "LibriSpeech/extra-clean/19/199/19-199-0000.flac",
        ),
    ),
    iemocap("iemocap-4", "neutral", "happiness", "", "sadness"),
    iemocap("iemocap-5", "neutral", "happiness", "frustration", "sadness"),
    iemocap("iemocap-6", "neutral", "excitement", "frustration", "sadness"),
    iemocap("iemocap", "neutral", "excitement", "frustration", "sadness"),
    Miniature(
        name="crema-d",
        rows={
            "AudioWAV/1001_DFA_ANG_XX.wav": ("anger", "male", "1001", "Don't forget a jacket"),
            "AudioWAV/1002_IEO_SAD_HI.wav": ("sadness", "female", "1002", "It's eleven o'clock"),
            "AudioWAV/1040_ITH_SAD_X.wav": ("sadness", "male", "1040", "I think I have a doctor's appointment"),
        },
        columns={"intensity": ["", "high", ""]},
        lists={
            "SentenceFilenames.csv": '"Stimulus_Number","Filename"\n1,"1001_DFA_ANG_XX"\n2,"1002_IEO_SAD_HI"\n'
            '3,"1040_ITH_SAD_XX"\n4,"1091_WSI_DIS_XX"\n5,"1091_WSI_JOY_XX"\n'
        },
        missing=("AudioWAV/1091_WSI_DIS_XX.wav",),
        num_missing=1,
        unexpected=("AudioWAV/1001_IEO_HAP_LO.wav", "AudioWAV/1091_WSI_JOY_XX.wav", "AudioWAV/1001_ang.wav"),
        ignored=("AudioMP3/1001_DFA_ANG_XX.mp3", "AudioMP3/1001_IEO_HAP_LO.mp3"),
    ),
    Miniature(
        name="meld",
        rows={
            "MELD.Raw/dev/dev_splits_complete/dia0_utt0.wav": ("surprise", "female", "Monica", "What?"),
            "MELD.Raw/test/output_repeated_splits_test/dia0_utt0.wav": ("neutral", "male", "Joey", 'He said, "no".'),
            "MELD.Raw/train/dia0_utt0.wav": ("sadness", "female", "Phoebe", "Oh my God, he’s lost it."),
            "MELD.Raw/train/dia0_utt1.wav": ("happiness", "", "Mrs. Green", "Hi Ross!"),
        },
        columns={"published_split": ["validation", "test", "train", "train"]},
        lists={
            "MELD.Raw/train_sent_emo.csv": MELD_HEADER + '1,"Oh my God, he’s lost it.",Phoebe,sadness,negative,0,0,4\n'
            "2,Hi Ross!,Mrs. Green,joy,positive,0,1,4\n"
            "3,NA,Ross,anger,negative,10,0,4\n"
            "4,Hm,Ross,bored,negative,10,1,4\n",
            "MELD.Raw/dev_sent_emo.csv": MELD_HEADER + "1,What?,Monica,surprise,negative,0,0,4\n",
            "MELD.Raw/test_sent_emo.csv": MELD_HEADER + '1,"He said, ""no"".",Joey,neutral,neutral,0,0,4\n',
        },
        missing=("train/dia10_utt0.wav",),
        num_missing=1,
        unexpected=("MELD.Raw/train/dia10_utt1.wav", "MELD.Raw/test/final_videos_testdia0_utt0.wav"),
    ),
    Miniature(
        name="savee",
        rows={
            "AudioData/DC/a01.wav": ("anger", "male", "DC", ""),
            "AudioData/KL/n30.wav": ("neutral", "male", "KL", ""),
            "ALL/JE_sa15.wav": ("sadness", "male", "JE", ""),
        },
        missing=("DC/a02.wav", "JK/su15.wav"),
        num_missing=477,
        unexpected=("AudioData/DC/a16.wav", "AudioData/DC/x01.wav", "AudioData/XX/a01.wav", "More/DC_a01.wav"),
    ),
    Miniature(
        name="tess",
        rows={
            "OAF_Pleasant_surprise/OAF_back_ps.wav": ("surprise", "female", "OAF", "Say the word back"),
            "OAF_neutral/OA_bite_neutral.wav": ("neutral", "female", "OAF", "Say the word bite"),
            "YAF_sad/YAF_youth_sad.wav": ("sadness", "female", "YAF", "Say the word youth"),
        },
        unexpected=("YAF_sad/YAF_youth_bored.wav", "YAF_sad/MAF_youth_sad.wav"),
    ),
    Miniature(
        name="esd",
        rows={
            "Emotion Speech Dataset/0001/Angry/train/0001_000351.wav": (
                "anger",
                "female",
                "0001",
                "打远一看，它们的确很美。",
            ),
            "Emotion Speech Dataset/0004/Sad/test/0004_001051.wav": ("sadness", "male", "0004", "他说的话。"),
            "Emotion Speech Dataset/0011/Neutral/evaluation/0011_000001.wav": ("neutral", "male", "0011", "The nine."),
            "Emotion Speech Dataset/0016/Happy/0016_000701.wav": ("happiness", "female", "0016", "He’d go."),
        },
        columns={
            "language": ["zh", "zh", "en", "en"],
            "published_split": ["train", "test", "validation", ""],
        },
        lists={
            "Emotion Speech Dataset/0001/0001.txt": "0001_000351\t打远一看，它们的确很美。\t生气\n".encode("gb2312"),
            "Emotion Speech Dataset/0004/0004.txt": "0004_001051\t他说的话。\t伤心\n".encode("utf-16"),
            "Emotion Speech Dataset/0011/0011.txt": (
                b"\xef\xbb\xbf0011_000001\tThe nine.\tNeutral\n\n0011_000002\tKeep.\tNeutral"
            ),
            "Emotion Speech Dataset/0016/0016.txt": "0016_000701 He’d go.  Happy \r\n".encode("cp1252"),
        },
        missing=("0011_000002.wav",),
        num_missing=1,
        unexpected=(
            "Emotion Speech Dataset/0001/Angry/train/0001_000352.wav",
            "Emotion Speech Dataset/0011/Calm/train/0011_000001.wav",
        ),
    ),
    Miniature(
        name="urdu",
        rows={
            "Angry/SM1_F10_A010.wav": ("anger", "male", "SM1", ""),
            "Sad/SF11_F1_S03.wav": ("sadness", "female", "SF11", ""),
        },
        unexpected=("Bored/SM1_F10_B010.wav", "Sad/SX1_F1_S03.wav"),
    ),
    Miniature(
        name="folder",
        rows={
            "test/Anger/a.wav": ("Anger", "", "", ""),
            "train/Anger/deep/a.wav": ("Anger", "", "", ""),
            "train/very sad/b.mp3": ("very sad", "", "", ""),
        },
        columns={"split": ["test", "train", "train"], "corpus": ["corpus"] * 3},
        unexpected=("a.wav",),
    ),
]

by_name = pytest.mark.parametrize("miniature", MINIATURES, ids=[miniature.name for miniature in MINIATURES])


@pytest.fixture
def folder(miniature, lay_out):
    """The miniature's folder."""
    return lay_out([*miniature.rows, *miniature.unexpected, *miniature.ignored], miniature.lists)


@by_name
def test_a_clip_has_the_labels_that_its_corpus_gives_it(miniature, folder):
    rows = read_corpus(CORPORA[miniature.name], folder).rows.set_index("audio")
    labels = rows[["emotion", "gender", "speaker_id", "text"]]
    assert dict(zip(labels.index, labels.itertuples(index=False, name=None), strict=True)) == miniature.rows
    for column, cells in miniature.columns.items():
        assert rows.loc[list(miniature.rows), column].tolist() == cells, column


@by_name
def test_missing_and_unexpected_files_are_named(miniature, folder):
    reading = read_corpus(CORPORA[miniature.name], folder)
    assert set(miniature.missing) <= set(reading.missing)
    assert len(reading.missing) == len(set(reading.missing)) == miniature.num_missing
    assert reading.unexpected == sorted(miniature.unexpected)


@by_name
def test_each_row_has_readable_audio_and_an_emotion_of_the_definition(miniature, folder):
    corpus = CORPORA[miniature.name]
    rows = read_corpus(corpus, folder).rows
    assert rows["audio"].is_unique
    for audio in rows["audio"]:
        load_audio(folder / audio)
    if corpus.emotions:
        assert set(rows["emotion"]) <= set(corpus.emotions.values())
    assert set(rows["gender"]) <= {"female", "male", ""}
    assert rows.map(type).eq(str).all(axis=None)
    assert set(rows.get("split", [])) <= {"train", "validation", "test"}


@by_name
def test_the_same_clips_are_found_in_another_audio_format(miniature, lay_out):
    stems = {name.rsplit(".", 1)[0]: labels for name, labels in miniature.rows.items()}
    folder = lay_out([f"{stem}.FLAC" for stem in stems], miniature.lists)
    rows = read_corpus(CORPORA[miniature.name], folder).rows
    assert dict(zip(rows["audio"], rows["emotion"], strict=True)) == {
        f"{stem}.FLAC": labels[0] for stem, labels in stems.items()
    }


@pytest.mark.parametrize("name", [miniature.name for miniature in MINIATURES])
def test_a_folder_of_something_else_is_one_line_with_the_expected_layout(name, lay_out):
    corpus = CORPORA[name]
    folder = lay_out(["something.wav"], {"notes.txt": "no list"})
    with pytest.raises(InputError) as caught:
        read_corpus(corpus, folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{folder}: ")
    assert corpus.layout in message


def test_emotions_have_one_name_in_all_corpora():
    named = {name for corpus in CORPORA.values() for name in corpus.emotions.values()}
    assert named <= {*KNOWN_EMOTIONS, ""}


def test_every_corpus_but_the_challenge_has_a_miniature():
    # MSP-Podcast has tests of its own.
    assert {miniature.name for miniature in MINIATURES} == set(CORPORA) - {"msp-podcast"}


def test_a_copy_of_crema_d_that_holds_nothing_but_audio_is_read_as_well(lay_out):
    reading = read_corpus(CORPORA["crema-d"], lay_out(["1001_DFA_ANG_XX.wav", "1002_IEO_SAD_HI.wav"]))
    assert reading.rows["gender"].tolist() == ["male", "female"]
    assert reading.missing == []
