import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

from modeling_ser_mtl.data.errors import InputError
from modeling_ser_mtl.data.splits import (
    check_disjoint_speakers,
    group_folds,
    hold_out_speakers,
    speaker_folds,
    stratified_speaker_folds,
)


def make_table(speakers, clips=3):
    """A table of `clips` clips for each speaker, given as {speaker: (gender, emotion)}."""
    rows = [
        {"speaker": speaker, "gender": gender, "emotion": emotion, "audio": f"{speaker}_{i}.wav"}
        for speaker, (gender, emotion) in speakers.items()
        for i in range(clips)
    ]
    return pd.DataFrame(rows).assign(manifest="m.csv", row=lambda table: range(2, len(table) + 2))


def corpus(name, males, females, emotion="anger"):
    return {f"{name}/{i:02}": ("male" if i < males else "female", emotion) for i in range(males + females)}


def speakers_of(table, positions):
    return set(table["speaker"].iloc[positions])


any_corpus = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 4)).filter(lambda sizes: sum(sizes) >= 2)


@given(sizes=any_corpus, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_rows_are_split_once_between_whole_speakers_and_both_sides_have_some(sizes, fraction, seed):
    males, females, unlabelled = sizes
    table = make_table(corpus("a", males, females) | corpus("b", unlabelled, 0, emotion=""))
    train, validation = hold_out_speakers(table, fraction, seed)
    assert sorted([*train, *validation]) == list(range(len(table)))
    assert speakers_of(table, train) and speakers_of(table, validation)
    assert not speakers_of(table, train) & speakers_of(table, validation)


@given(sizes=any_corpus, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99))
@example(sizes=(1, 1, 1), fraction=0.5, seed=3)
@settings(max_examples=40, deadline=None)
def test_every_gender_with_two_speakers_is_in_both_sides(sizes, fraction, seed):
    males, females, unlabelled = sizes
    table = make_table(corpus("a", males, females) | corpus("b", unlabelled, 0, emotion=""))
    train, validation = hold_out_speakers(table, fraction, seed)
    per_gender = table.groupby("gender")["speaker"].nunique()
    for gender in per_gender.index[per_gender >= 2]:
        assert gender in set(table["gender"].iloc[validation])
        assert gender in set(table["gender"].iloc[train])


def test_about_the_fraction_of_each_gender_is_held_out():
    table = make_table(corpus("a", 40, 20))
    _, validation = hold_out_speakers(table, 0.15, seed=1)
    assert table.iloc[validation].groupby("gender")["speaker"].nunique().to_dict() == {"female": 3, "male": 6}


def test_mixed_corpora_hold_out_speakers_with_and_without_emotion_labels():
    table = make_table(corpus("emotional", 2, 2) | corpus("read", 40, 40, emotion=""))
    for seed in range(10):
        _, validation = hold_out_speakers(table, 0.05, seed)
        held_out = table.iloc[validation].drop_duplicates("speaker")
        assert set(zip(held_out["gender"], held_out["emotion"] != "", strict=True)) == {
            ("male", True),
            ("male", False),
            ("female", True),
            ("female", False),
        }


def test_a_single_speaker_to_hold_out_is_one_with_emotion_labels():
    table = make_table({"a/1": ("male", ""), "a/2": ("female", "anger")})
    for seed in range(10):
        assert speakers_of(table, hold_out_speakers(table, 0.1, seed)[1]) == {"a/2"}


def test_one_labelled_clip_makes_a_speaker_one_with_emotion_labels():
    table = make_table({"a/1": ("male", ""), "a/2": ("male", "")})
    table.loc[5, "emotion"] = "fear"
    assert speakers_of(table, hold_out_speakers(table, 0.1, 0)[1]) == {"a/2"}


@given(order=st.permutations(range(24)), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_held_out_speakers_do_not_depend_on_the_order_or_index_of_rows(order, seed):
    table = make_table(corpus("a", 4, 4))
    shuffled = table.iloc[list(order)]
    expected = speakers_of(table, hold_out_speakers(table, 0.3, seed)[1])
    assert speakers_of(shuffled, hold_out_speakers(shuffled, 0.3, seed)[1]) == expected


def test_another_seed_holds_out_other_speakers():
    table = make_table(corpus("a", 20, 20))
    drawn = {frozenset(speakers_of(table, hold_out_speakers(table, 0.2, seed)[1])) for seed in range(5)}
    assert len(drawn) > 1


def test_clips_without_a_speaker_always_train():
    table = make_table(corpus("a", 3, 3) | {"": ("male", "anger")})
    train, validation = hold_out_speakers(table, 0.5, seed=0)
    assert "" in speakers_of(table, train)
    assert "" not in speakers_of(table, validation)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_outside_the_open_unit_interval_is_an_error(fraction):
    with pytest.raises(InputError, match="--validation_speakers .*between 0 and 1"):
        hold_out_speakers(make_table(corpus("a", 3, 3)), fraction, seed=0)


def test_fewer_than_two_speakers_is_an_error():
    with pytest.raises(InputError, match="found 1 speaker"):
        hold_out_speakers(make_table({"a/1": ("male", "anger"), "": ("male", "anger")}), 0.2, seed=0)


@given(num_speakers=st.integers(2, 12), num_folds=st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_each_clip_is_tested_in_exactly_one_fold_and_groups_differ_by_one_speaker_at_most(num_speakers, num_folds):
    num_folds = min(num_folds, num_speakers)
    table = make_table(corpus("a", num_speakers, 0))
    tested, sizes = [], []
    for fold in range(num_folds):
        rest, test = speaker_folds(table, num_folds, fold)
        assert sorted([*rest, *test]) == list(range(len(table)))
        assert not speakers_of(table, rest) & speakers_of(table, test)
        tested.extend(test)
        sizes.append(len(speakers_of(table, test)))
    assert sorted(tested) == list(range(len(table)))
    assert max(sizes) - min(sizes) <= 1


def test_speakers_are_cut_in_the_order_of_strings():
    table = make_table({f"a/{i}": ("male", "") for i in (10, 9, 2, 1)}, clips=1)
    assert [sorted(speakers_of(table, speaker_folds(table, 2, fold)[1])) for fold in (0, 1)] == [
        ["a/1", "a/10"],
        ["a/2", "a/9"],
    ]


def test_one_fold_per_speaker_is_leave_one_speaker_out_as_in_scikit_learn():
    table = make_table(corpus("a", 5, 0))
    ours = {tuple(speaker_folds(table, 5, fold)[1]) for fold in range(5)}
    theirs = {tuple(test) for _, test in GroupKFold(5).split(table, groups=table["speaker"])}
    assert ours == theirs


@pytest.mark.parametrize(
    ("num_folds", "fold", "found"),
    [(5, 0, "--num_folds 5: .*here 4"), (1, 0, "--num_folds 1"), (4, 4, "--fold 4: .*0 to 3"), (4, -1, "--fold -1")],
)
def test_folds_out_of_range_are_errors(num_folds, fold, found):
    with pytest.raises(InputError, match=found):
        speaker_folds(make_table(corpus("a", 4, 0)), num_folds, fold)


def test_folds_need_a_speaker_for_every_clip():
    with pytest.raises(InputError, match="m.csv row 11: .*--num_folds"):
        speaker_folds(make_table(corpus("a", 3, 0) | {"": ("male", "")}), 2, 0)


def test_shared_speakers_are_named_up_to_three():
    train, test = make_table(corpus("a", 8, 0)), make_table(corpus("a", 5, 0))
    with pytest.raises(InputError, match=r"5 speaker.* of the test set .*a/00, a/01, a/02 and 2 more"):
        check_disjoint_speakers(train, test, "test")


def test_tables_may_share_clips_without_a_speaker():
    unknown = {"": ("male", "")}
    check_disjoint_speakers(make_table(corpus("a", 2, 0) | unknown), make_table(corpus("b", 2, 0) | unknown), "test")


def test_positions_are_integers_that_iloc_takes():
    table = make_table(corpus("a", 4, 4))
    for positions in (*hold_out_speakers(table, 0.3, 0), *speaker_folds(table, 2, 1)):
        assert np.issubdtype(positions.dtype, np.integer)


def test_the_only_two_speakers_with_emotions_are_never_both_held_out() -> None:
    rows = [("a", "female", "anger"), ("b", "male", "anger"), ("c", "female", ""), ("d", "male", "")]
    table = pd.DataFrame([{"speaker": s, "gender": g, "emotion": e} for s, g, e in rows])
    for seed in range(20):
        train, validation = hold_out_speakers(table, 0.15, seed)
        assert set(table["emotion"].iloc[train]) == set(table["emotion"].iloc[validation]) == {"anger", ""}


any_emotions = st.lists(
    st.dictionaries(st.sampled_from(["", "anger", "fear", "joy"]), st.integers(1, 4), min_size=1),
    min_size=2,
    max_size=9,
)


def make_emotional_table(counts):
    """A table with the given number of clips of each emotion for each speaker."""
    rows = [
        {"speaker": f"a/{index:02}", "gender": ("male", "female")[index % 2], "emotion": emotion}
        for index, speaker in enumerate(counts)
        for emotion, count in speaker.items()
        for _ in range(count)
    ]
    return pd.DataFrame(rows).assign(manifest="m.csv", audio="a.wav", row=lambda table: range(2, len(table) + 2))


def test_a_rare_emotion_of_two_speakers_trains_and_validates() -> None:
    usual = {"anger": 3, "joy": 3}
    table = make_emotional_table([usual] * 18 + [{**usual, "fear": 1}] * 2)
    for seed in range(10):
        train, validation = hold_out_speakers(table, 0.1, seed)
        assert "fear" in set(table["emotion"].iloc[train]) & set(table["emotion"].iloc[validation])


def test_an_emotion_of_a_single_speaker_trains() -> None:
    table = make_emotional_table([{"anger": 3, "joy": 3}] * 4 + [{"anger": 3, "fear": 1}])
    for seed in range(10):
        assert "fear" in set(table["emotion"].iloc[hold_out_speakers(table, 0.4, seed)[0]])


@given(counts=any_emotions, num_folds=st.integers(2, 9), seed=st.integers(0, 99))
@example(  # scikit-learn leaves a fold empty here
    counts=[{"": 2}, {"": 3}, {"": 1, "anger": 1, "fear": 3}, {"anger": 1, "fear": 1}, {"joy": 1}], num_folds=5, seed=0
)
@settings(max_examples=40, deadline=None)
def test_stratified_folds_test_each_clip_once_and_every_fold_has_whole_speakers(counts, num_folds, seed) -> None:
    table = make_emotional_table(counts)
    num_folds = min(num_folds, len(counts))
    tested = []
    for fold in range(num_folds):
        rest, test = stratified_speaker_folds(table, num_folds, fold, seed)
        assert sorted([*rest, *test]) == list(range(len(table)))
        assert len(test) and not speakers_of(table, rest) & speakers_of(table, test)
        tested.extend(test)
    assert sorted(tested) == list(range(len(table)))


def test_stratified_folds_have_equal_shares_of_emotions_where_plain_ones_have_not() -> None:
    table = make_emotional_table([{"anger": 9, "fear": 1}] * 4 + [{"anger": 1, "fear": 9}] * 4)

    def shares(cut) -> list[float]:
        tests = [table["emotion"].iloc[cut(fold)[1]] for fold in range(4)]
        return sorted(round(float((emotions == "fear").mean()), 1) for emotions in tests)

    assert shares(lambda fold: speaker_folds(table, 4, fold)) == [0.1, 0.1, 0.9, 0.9]
    for seed in range(5):
        assert shares(lambda fold, seed=seed: stratified_speaker_folds(table, 4, fold, seed)) == [0.5] * 4


@given(order=st.permutations(range(40)))
@settings(max_examples=10, deadline=None)
def test_stratified_folds_do_not_depend_on_the_order_of_rows_and_do_on_the_seed(order) -> None:
    table = make_emotional_table([{"anger": 2, "fear": 2}] * 10)
    shuffled = table.iloc[list(order)]
    groups = [speakers_of(table, stratified_speaker_folds(table, 5, 0, seed)[1]) for seed in range(8)]
    assert speakers_of(shuffled, stratified_speaker_folds(shuffled, 5, 0, seed=0)[1]) == groups[0]
    assert len({frozenset(group) for group in groups}) > 1


@given(sessions=st.lists(st.sampled_from(["Ses1", "Ses2", "Ses10"]), min_size=2).filter(lambda s: len(set(s)) > 1))
@settings(max_examples=20, deadline=None)
def test_each_session_is_the_test_set_once_as_in_scikit_learn(sessions) -> None:
    table = pd.DataFrame({"session": sessions, "speaker": [f"a/{session}" for session in sessions]})
    expected = [test.tolist() for _, test in LeaveOneGroupOut().split(table, groups=table["session"])]
    found = [group_folds(table, "session", fold) for fold in range(len(expected))]
    assert [test.tolist() for _, test in found] == expected
    assert all(sorted([*rest, *test]) == list(range(len(table))) for rest, test in found)


@pytest.mark.parametrize(
    ("sessions", "fold", "found"),
    [
        (["1", "", "2", "2"], 0, r"m.csv row 3: 'session' of a.wav is empty \(1 of 4"),
        (["1", "1", "1", "1"], 0, "found '1' only"),
        (["1", "1", "2", "2"], 2, "--fold 2: .*0 to 1"),
        (["1", "1", "2", "2"], -1, "--fold -1"),
        (["1", "2", "2", "2"], 0, "1 speaker.*a/00.*must not share speakers"),
    ],
)
def test_sessions_that_give_no_speaker_independent_folds_are_errors(sessions, fold, found) -> None:
    table = make_emotional_table([{"anger": 2}, {"anger": 2}]).assign(session=sessions)
    with pytest.raises(InputError, match=found):
        group_folds(table, "session", fold)


def test_a_column_that_is_not_there_makes_no_folds() -> None:
    with pytest.raises(InputError, match="'session': not in the data; found: speaker, gender"):
        group_folds(make_table(corpus("a", 2, 2)), "session", 0)
