import json

import jiwer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2CTCTokenizer

from modeling_ser_mtl.data.text import build_vocabulary, normalize_transcript


def test_the_typographic_apostrophe_survives_as_the_plain_one():
    assert normalize_transcript("Don’t! ‘Stop’ it.") == "don't stop' it"


def test_compatibility_forms_become_plain_characters():
    assert normalize_transcript("ﬁne Ｆｕｌｌ\u00a0Ｗｉｄｔｈ") == "fine full width"


def test_a_decomposed_and_a_composed_accent_are_the_same():
    assert normalize_transcript("Zażo\u0301łć") == normalize_transcript("Zażółć") == "zażółć"


def test_the_word_delimiter_of_the_vocabulary_never_survives():
    assert normalize_transcript("a | b") == "a b"


@given(st.lists(st.sampled_from(["Straße", "don't", "e.g.", "¿qué?", "“so”", "—", "Yes,no", "Łódź", "你好。"])))
@settings(max_examples=30, deadline=None)
def test_jiwer_agrees_on_lower_case_punctuation_and_white_space(words):
    text = " \t".join(words)
    shielded = text.replace("'", "APOSTROPHE")
    reference = jiwer.Compose(
        [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), jiwer.Strip()]
    )(shielded.replace("\t", " "))
    assert normalize_transcript(text) == reference.replace("apostrophe", "'")


@given(st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_normal_form_is_its_own_normal_form(text):
    assert normalize_transcript(normalize_transcript(text)) == normalize_transcript(text)


def test_the_vocabulary_starts_with_the_blank_the_unknown_and_the_delimiter():
    assert build_vocabulary(["ba b", "a'c"]) == {"<pad>": 0, "<unk>": 1, "|": 2, "'": 3, "a": 4, "b": 5, "c": 6}


def test_the_vocabulary_depends_neither_on_order_nor_on_repetition():
    assert list(build_vocabulary(["ab", "cd", "ab"]).items()) == list(build_vocabulary(["dc", "ba"]).items())


def test_every_transcript_comes_back_from_the_tokenizer(tmp_path):
    transcripts = [normalize_transcript(text) for text in ("Don’t stop, please!", "Über Öl", "Łódź 42")]
    (tmp_path / "vocab.json").write_text(json.dumps(build_vocabulary(transcripts)), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), bos_token=None, eos_token=None)
    assert [tokenizer.decode(tokenizer(text).input_ids, group_tokens=False) for text in transcripts] == transcripts
