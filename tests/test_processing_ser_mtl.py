import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from modeling_ser_mtl import SerMtlProcessor
from modeling_ser_mtl.data.audio import load_audio
from modeling_ser_mtl.data.text import normalize_transcript
from modeling_ser_mtl.processing_ser_mtl import LogMelFeatureExtractor, trim_silence

few = settings(max_examples=20, deadline=None)
lengths = st.integers(400, 6_000)

FEATURE_EXTRACTORS = {
    "waveform": Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True),
    "waveform without stored mask": Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False),
    "log-mel": LogMelFeatureExtractor(),
    "log-mel, 39 bins, stride 4": LogMelFeatureExtractor(39, 4, mean=np.linspace(5, 9, 39), std=np.linspace(2, 3, 39)),
    "whisper": WhisperFeatureExtractor(feature_size=8),
}


def noise(length: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng((length, seed))
    return (random.uniform(0.01, 0.3) * random.standard_normal(length) + 0.02).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer(plain_config, make_processor):
    return make_processor(plain_config("wav2vec2-layer")).tokenizer


@pytest.fixture(params=FEATURE_EXTRACTORS)
def processor(request, tokenizer) -> SerMtlProcessor:
    return SerMtlProcessor(FEATURE_EXTRACTORS[request.param], tokenizer)


def assert_equals_seamless(waveforms, num_mel_bins=79, stride=2):
    """Our frames are the stock extractor's unnormalised ones, each followed by a zero."""
    ours = LogMelFeatureExtractor(num_mel_bins=num_mel_bins, stride=stride)(waveforms, sampling_rate=16_000)
    stock = SeamlessM4TFeatureExtractor(num_mel_bins=num_mel_bins, feature_size=num_mel_bins, stride=stride)
    theirs = stock(waveforms, sampling_rate=16_000, do_normalize_per_mel_bins=False, pad_to_multiple_of=stride)
    np.testing.assert_array_equal(ours["attention_mask"], theirs["attention_mask"])
    frames = ours["input_features"].reshape(len(waveforms), -1, num_mel_bins + 1)
    theirs = theirs["input_features"].reshape(len(waveforms), -1, num_mel_bins)
    # The stock extractor rounds its spectra to single precision.
    np.testing.assert_allclose(frames[..., :-1], theirs, atol=5e-3)
    assert (frames[..., -1] == 0).all()


@given(length=st.integers(800, 6_000))
@settings(max_examples=5, deadline=None)
def test_log_mel_features_of_noise_equal_the_stock_extractors(length):
    assert_equals_seamless([noise(length)])


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_log_mel_features_of_a_batch_equal_the_stock_extractors(stride):
    assert_equals_seamless([noise(4_000), noise(6_000)], num_mel_bins=40, stride=stride)


@pytest.mark.parametrize("corpus", ["emodb", "librispeech", "nemo", "ravdess"])
def test_log_mel_features_of_speech_equal_the_stock_extractors(corpora, corpus):
    paths = pd.read_csv(corpora / corpus / "manifest.csv", dtype=str)["audio"][[0, 7]]
    assert_equals_seamless([load_audio(corpora / corpus / path)[:32_000] for path in paths])


def test_a_louder_clip_has_all_its_log_mel_values_higher_by_the_same_amount():
    clip = noise(400 + 23 * 160)
    quiet, loud = (
        LogMelFeatureExtractor(num_mel_bins=40)(factor * clip, sampling_rate=16_000)["input_features"]
        for factor in (1.0, 10.0)
    )
    np.testing.assert_allclose((loud - quiet).reshape(24, 41)[:, :-1], np.log(100.0), atol=1e-3)


def test_fitted_log_mel_features_of_the_fitted_clips_have_mean_0_and_deviation_1_in_each_bin():
    clips = [0.1 * noise(8_000), noise(400 + 31 * 160), noise(400 + 63 * 160, seed=1)]
    extractor = LogMelFeatureExtractor(num_mel_bins=20, stride=1)
    extractor.fit(clips)
    frames = np.concatenate([extractor(clip, sampling_rate=16_000)["input_features"][0] for clip in clips])
    np.testing.assert_allclose(frames[:, :-1].mean(0), 0.0, atol=1e-3)
    np.testing.assert_allclose(frames[:, :-1].std(0), 1.0, atol=1e-3)
    assert (frames[:, -1] == 0).all()


@given(factor=st.floats(0.01, 100), length=st.integers(800, 6_000))
@few
def test_log_mel_features_of_clips_of_one_level_do_not_tell_how_loud_they_came(factor, length):
    clip = noise(length)
    given_clip, normalized = (
        LogMelFeatureExtractor(do_normalize=do_normalize)(audio, sampling_rate=16_000)["input_features"]
        for do_normalize, audio in ((True, factor * clip), (False, clip / np.sqrt(np.mean(clip**2))))
    )
    np.testing.assert_allclose(given_clip, normalized, atol=5e-3)


def test_a_saved_log_mel_extractor_knows_whether_clips_come_to_one_level(tmp_path):
    LogMelFeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    assert LogMelFeatureExtractor.from_pretrained(tmp_path).do_normalize


def test_fitting_to_digital_silence_leaves_finite_features():
    extractor = LogMelFeatureExtractor()
    extractor.fit([np.zeros(4_000, np.float32)])
    assert np.isfinite(extractor(noise(4_000), sampling_rate=16_000)["input_features"]).all()


@given(own=lengths, others=st.lists(lengths, min_size=1, max_size=3), position=st.integers(0, 3))
@few
def test_the_inputs_of_a_clip_do_not_depend_on_its_batch(tokenizer, own, others, position):
    clip, batch = noise(own), [noise(length, seed=1) for length in others]
    batch.insert(position, clip)
    row = min(position, len(others))
    for feature_extractor in FEATURE_EXTRACTORS.values():
        processor = SerMtlProcessor(feature_extractor, tokenizer)
        alone, padded = (processor(audio, sampling_rate=16_000) for audio in ([clip], batch))
        name = processor.model_input_names[0]
        length = alone[name].shape[1]
        torch.testing.assert_close(padded[name][row, :length], alone[name][0], rtol=0, atol=1e-6)
        length = alone["attention_mask"].shape[1]
        torch.testing.assert_close(padded["attention_mask"][row, :length], alone["attention_mask"][0])
        assert (padded["attention_mask"][row, length:] == 0).all()


@given(sizes=st.lists(lengths, min_size=1, max_size=4))
@few
def test_each_waveform_is_normalised_over_its_own_samples_before_padding(tokenizer, sizes):
    waveforms = [noise(size) for size in sizes]
    for name in ("waveform", "waveform without stored mask"):
        inputs = SerMtlProcessor(FEATURE_EXTRACTORS[name], tokenizer)(waveforms, sampling_rate=16_000)
        for waveform, values, mask in zip(waveforms, inputs["input_values"], inputs["attention_mask"], strict=True):
            expected = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
            np.testing.assert_allclose(values[: len(waveform)], expected, atol=1e-4)
            assert mask.sum() == len(waveform) and (values[len(waveform) :] == 0).all()


def test_one_waveform_or_a_list_of_one_give_the_same_inputs(processor):
    clip = noise(3_000)
    single, batch = processor(clip, sampling_rate=16_000), processor([clip], sampling_rate=16_000)
    assert set(single) == set(batch) == set(processor.model_input_names)
    for name in single:
        torch.testing.assert_close(single[name], batch[name], rtol=0, atol=0)


@given(sizes=st.lists(st.integers(400, 480_000), min_size=1, max_size=2))
@settings(max_examples=5, deadline=None)
def test_whisper_features_are_30_seconds_of_which_the_mask_takes_the_clips_frames(tokenizer, sizes):
    extractor = WhisperFeatureExtractor(feature_size=8)
    clips = [noise(size) for size in sizes]
    inputs = SerMtlProcessor(extractor, tokenizer)(clips, sampling_rate=16_000)
    stock = extractor(clips, sampling_rate=16_000, return_tensors="pt")
    assert inputs["input_features"].shape == (len(sizes), 8, 3_000)
    assert torch.equal(inputs["input_features"], stock["input_features"])
    # A frame of 10 ms counts where it begins inside the clip.
    assert inputs["attention_mask"].tolist() == [[int(160 * frame < size) for frame in range(3_000)] for size in sizes]


def test_a_clip_longer_than_whisper_reads_is_refused_instead_of_cropped(tokenizer):
    processor = SerMtlProcessor(WhisperFeatureExtractor(feature_size=8), tokenizer)
    assert processor([noise(480_000)], sampling_rate=16_000)["attention_mask"].all()
    with pytest.raises(ValueError, match="found 480001 samples; this encoder reads 480000"):
        processor([noise(4_000), noise(480_001)], sampling_rate=16_000)


@given(before=st.integers(0, 9_000), size=st.integers(400, 9_000), after=st.integers(0, 9_000))
@few
def test_silence_is_trimmed_to_50_ms_around_what_is_heard(before, size, after):
    clip = np.concatenate([noise(before + 1)[1:] * 1e-3, noise(size), noise(after + 1)[1:] * 1e-3])
    trimmed = trim_silence(clip, 30)
    start = int(np.flatnonzero(clip == trimmed[0])[0])
    assert np.array_equal(trimmed, clip[start : start + len(trimmed)])
    # All that is heard stays, and at most 50 ms and the frame of 25 ms that touches it.
    assert before - 1_200 <= start <= before
    assert before + size <= start + len(trimmed) + 160
    assert start + len(trimmed) <= before + size + 1_200
    assert len(trim_silence(trimmed, 30)) == len(trimmed)


def test_a_clip_without_any_sound_stays_whole():
    assert len(trim_silence(np.zeros(5_000, np.float32), 30)) == 5_000


def test_a_processor_that_trims_reads_the_trimmed_clip_also_when_it_is_loaded_again(tokenizer, tmp_path):
    clip = np.concatenate([np.zeros(8_000, np.float32), noise(6_000), np.zeros(8_000, np.float32)])
    for name, feature_extractor in FEATURE_EXTRACTORS.items():
        trimming = SerMtlProcessor(feature_extractor, tokenizer, trim_db=30)
        trimming.save_pretrained(tmp_path / name)
        plain = SerMtlProcessor(feature_extractor, tokenizer)(trim_silence(clip, 30), sampling_rate=16_000)
        for processor in (trimming, SerMtlProcessor.from_pretrained(tmp_path / name)):
            inputs = processor(clip, sampling_rate=16_000)
            assert all(torch.equal(inputs[key], plain[key]) for key in plain)


def test_another_sampling_rate_is_refused(processor):
    with pytest.raises(ValueError, match="sampling rate"):
        processor(noise(3_000), sampling_rate=8_000)


transcripts = st.text("abcyz '", max_size=12).map(normalize_transcript)


@given(texts=st.lists(transcripts, min_size=1, max_size=4), repeats=st.integers(1, 3))
@few
def test_transcripts_survive_encoding_and_ctc_decoding(tokenizer, texts, repeats):
    processor = SerMtlProcessor(FEATURE_EXTRACTORS["waveform"], tokenizer)
    labels = processor.encode_transcripts(texts)
    assert (labels >= 0).sum(1).tolist() == [len(text) for text in texts]
    # A recogniser's frames: each character several times, then a blank; padding stays below 0.
    blanks = torch.where(labels < 0, labels, tokenizer.pad_token_id)
    frames = torch.stack([labels] * repeats + [blanks], dim=-1).flatten(1)
    assert processor.decode_ctc(frames) == texts


def test_a_clip_without_transcript_has_no_ctc_labels(processor):
    inputs = processor([noise(2_000), noise(3_000)], text=["", "a b"], sampling_rate=16_000)
    assert (inputs["ctc_labels"][0] == -100).all() and (inputs["ctc_labels"][1] >= 0).all()
    assert processor.encode_transcripts([""]).tolist() == [[-100]]


def test_a_character_outside_the_vocabulary_is_encoded_as_unknown(processor):
    (encoded,) = processor.encode_transcripts(["aß"]).tolist()
    assert encoded[1] == processor.tokenizer.unk_token_id != processor.tokenizer.pad_token_id


def test_a_saved_processor_loads_through_auto_processor_and_gives_the_same_inputs(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(loaded).__name__ == "SerMtlProcessor"
    audio, text = [noise(2_000), noise(3_000)], ["a b'", ""]
    expected, inputs = (p(audio, text=text, sampling_rate=16_000) for p in (processor, loaded))
    assert set(inputs) == set(expected)
    for name in expected:
        torch.testing.assert_close(inputs[name], expected[name], rtol=0, atol=0)
    assert loaded.decode_ctc(inputs["ctc_labels"]) == text
