"""What a close look finds in records: each kind by itself, on records made for it."""

from __future__ import annotations

import string

import numpy as np
import pytest
from cleanlab.filter import find_label_issues
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.records import (
    Answer,
    Conversation,
    LabelledText,
    Message,
    QuestionedText,
    TextPair,
)
from tunesmith.models.logistic import Samples
from tunesmith.quality.answers import find_boilerplate, find_refusals
from tunesmith.quality.conflicts import find_conflicts
from tunesmith.quality.findings import KINDS, Finding, in_order
from tunesmith.quality.labels import find_wrong_labels, out_of_fold
from tunesmith.quality.languages import Mixture, languages_of
from tunesmith.quality.outliers import beyond, neighbour_distances, odd_lengths
from tunesmith.quality.personal import find_personal, luhn, redact, redact_all


def chat(*turns: str) -> Conversation:
    roles = ("user", "assistant")
    messages = [Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns)]  # type: ignore[arg-type]
    return Conversation(messages=messages)


def clouds(count: int, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Vectors around one centre a class, well apart, and the class of each."""
    generator = np.random.default_rng(seed)
    centres = 4 * np.eye(classes, 8)
    which = np.arange(count) % classes
    return centres[which] + generator.normal(size=(count, 8)), [f"c{i}" for i in which]


def test_flipped_labels_are_found_with_the_right_one_beside_them() -> None:
    vectors, labels = clouds(300)
    flipped = {5: "c0", 60: "c1", 151: "c2", 299: "c0"}
    right = {place: labels[place] for place in flipped}
    for place, label in flipped.items():
        labels[place] = label
    found, remark = find_wrong_labels(vectors, labels, range(300))
    assert {one.place: one.better for one in found}.items() >= right.items()
    assert len(found) <= len(flipped) + 6
    first = found[0]
    assert first.given_probability < 0.1 < 0.9 < first.better_probability
    assert remark == ""


def test_clean_labels_of_classes_far_apart_give_no_finding() -> None:
    vectors, labels = clouds(200)
    assert find_wrong_labels(3 * vectors, labels, range(200))[0] == []


def test_a_class_with_too_few_texts_is_passed_over_and_said() -> None:
    vectors, labels = clouds(120, classes=2)
    labels[:3] = ["rare", "rare", "rare"]
    found, remark = find_wrong_labels(vectors, labels, range(120))
    assert "rare" not in {one.given for one in found}
    assert remark == "1 classes of fewer than 5 texts were passed over"


def test_one_class_cannot_be_judged() -> None:
    vectors, _ = clouds(20)
    assert find_wrong_labels(vectors, ["a"] * 20, range(20)) == (
        [],
        "needs two classes of 5 different texts",
    )


def test_equal_texts_do_not_vouch_for_each_other() -> None:
    vectors, labels = clouds(100, classes=2)
    vectors[90:] = vectors[0]  # ten copies of a text of class c0, all labelled wrong
    labels[90:] = ["c1"] * 10
    keys = [*range(90), *["copy"] * 10]
    assert set(range(90, 100)) <= {one.place for one in find_wrong_labels(vectors, labels, keys)[0]}


def test_no_record_is_judged_by_a_map_that_saw_it() -> None:
    vectors, labels = clouds(100, classes=2)
    truth = np.array([int(label[1]) for label in labels])
    far = vectors.copy()
    far[0] *= 1000  # a map that saw it would fit it
    groups = np.arange(100)
    for wrong in (0, 1):
        given_labels = truth.copy()
        given_labels[0] = wrong
        judged = out_of_fold(Samples(far, given_labels), groups, classes=2, seed=0)
        assert judged[0].argmax() == 0


def test_issues_are_those_of_cleanlab_from_the_same_probabilities() -> None:
    vectors, labels = clouds(300)
    labels[::20] = ["c0"] * 15
    numbers = np.array([int(label[1]) for label in labels])
    probabilities = out_of_fold(Samples(vectors, numbers), np.arange(300), classes=3, seed=0)
    theirs = set(np.flatnonzero(find_label_issues(numbers, probabilities, n_jobs=1)).tolist())
    assert {one.place for one in find_wrong_labels(vectors, labels, range(300))[0]} == theirs


def test_one_prompt_with_two_answers_is_a_conflict_whatever_its_case() -> None:
    records = [
        chat("What is up?", "The sky."),
        chat("what is  UP?", "Nothing."),
        chat("Who?", "Me."),
        chat("Who?", "Me."),
    ]
    assert find_conflicts(records) == [[0, 1]]


def test_an_earlier_turn_is_part_of_what_is_asked() -> None:
    records = [chat("a", "b", "Why?", "So."), chat("c", "d", "Why?", "Not so.")]
    assert find_conflicts(records) == []


def test_labels_and_answers_in_a_text_conflict_as_well() -> None:
    labelled = [LabelledText(text="a", label="x"), LabelledText(text="A", label="y")]
    assert find_conflicts(labelled) == [[0, 1]]
    asked = [
        QuestionedText(text="Ada wrote.", question="Who?", answers=[Answer(text="Ada", start=0)]),
        QuestionedText(text="Ada wrote.", question="Who?", answers=[]),
    ]
    assert find_conflicts(asked) == [[0, 1]]


def test_pairs_conflict_by_what_is_asked_of_them() -> None:
    written = [
        TextPair(source="Save as  draft", target="Als Entwurf speichern"),
        TextPair(source="save as draft", target="Als Entwurf sichern"),
        TextPair(source="Close", target="Schließen"),
        TextPair(source="Close", target="Schließen"),
        TextPair(source="Shut", target="Schließen"),
    ]
    assert find_conflicts(written) == [[0, 1]]
    labelled = [
        LabelledText(text="A cat sits.", other="It sleeps.", label="same"),
        LabelledText(text="A cat sits.", other="it  sleeps.", label="other"),
        LabelledText(text="A cat sits.", other="It runs.", label="other"),
    ]
    assert find_conflicts(labelled) == [[0, 1]]


def test_a_vector_far_from_all_others_is_the_farthest_outlier() -> None:
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(200, 16)) + 5
    vectors[17] = -vectors[17]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    far = beyond(neighbour_distances(vectors))
    assert far[0][0] == 17
    assert len(far) < 6


def test_distances_leave_the_vector_itself_out() -> None:
    vectors = np.eye(12)
    assert neighbour_distances(vectors) == pytest.approx(np.ones(12))


def test_with_many_records_neighbours_are_looked_for_among_a_sample(monkeypatch) -> None:
    monkeypatch.setattr("tunesmith.quality.outliers.COMPARED", 120)
    vectors = np.tile(np.eye(4), (50, 1))
    assert neighbour_distances(vectors) == pytest.approx(np.zeros(200), abs=1e-12)


def test_odd_lengths_are_found_on_both_sides() -> None:
    lengths = [100 + i for i in range(60)] + [3, 90_000]
    assert [place for place, _ in odd_lengths(lengths)] == [61, 60]
    assert odd_lengths([100] * 60) == []
    assert odd_lengths([100] * 5 + [90_000]) == []  # too few to know what is usual


@pytest.mark.parametrize(
    "answer",
    [
        "As an AI language model, I do not eat.",
        "I’m sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "Es tut mir leid, aber ich kann das nicht.",
        "Als KI-Sprachmodell habe ich keine Meinung.",
    ],
)
def test_refusals_are_found(answer: str) -> None:
    assert find_refusals(["It is blue.", answer])[0][0] == 1


def test_an_answer_about_refusing_is_no_refusal() -> None:
    assert find_refusals(["She cannot help him, and I am sorry for her.", "AI is a field."]) == []


def test_fillers_and_what_pages_leave_are_boilerplate_but_not_in_code() -> None:
    found = dict(
        find_boilerplate(
            [
                "Certainly! Here it is.",
                "Salt &amp; pepper",
                "Use this:\n```html\n<br/> &amp;\n```",
                "Plain words.",
            ]
        )
    )
    assert set(found) == {0, 1}
    assert found[1] == "has markup: &amp;"


def test_an_opening_that_many_share_is_a_habit() -> None:
    words = [a + b for a in string.ascii_lowercase for b in "aeiou"]
    same = [f"Thank you for asking about {w} and {w} or {w} today" for w in words[:20]]
    other = [" ".join(words[i : i + 12]) for i in range(20, 100)]
    found = find_boilerplate([*same, *other])
    assert {place for place, _ in found} == set(range(20))
    assert found[0][1].startswith("begins like 19 others: “thank you for asking about”")


def test_an_answer_that_many_share_is_a_habit_and_yes_is_not() -> None:
    found = find_boilerplate([*["Please see the manual for this."] * 12, *["Yes."] * 30])
    assert {place for place, _ in found} == set(range(12))
    assert "word for word that of 11 others" in found[0][1]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to ada.l+x@mail.engines.org now", "e-mail address"),
        ("card 4539 5787 6362 1486, thanks", "card number"),
        ("IBAN DE89 3704 0044 0532 0130 00 please", "IBAN"),
        ("GB82WEST12345698765432", "IBAN"),
        ("call +49 30 901820 today", "telephone number"),
        ("call (212) 736-5000 today", "telephone number"),
        ("from 81.2.69.142 again", "IP address"),
        ("from 2001:4860:4860::8888 again", "IP address"),
        ("SSN 536-90-4399.", "social security number"),
        ("key AKIAIOSFODNN7EXAMPLE", "secret key"),
    ],
)
def test_personal_data_is_found_by_its_form(text: str, kind: str) -> None:
    assert [match.kind for match in find_personal(text)] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "you@example.com and x@host.test",
        "card 4539 5787 6362 1487 has a wrong check digit",
        "192.168.0.1 and 127.0.0.1 are nobody's",
        "version 1.2.3 of 2024-05-17, 12,345,678 records",
        "pi is 3.14159265358979323846",
        "DE89 3704 0044 0532 0130 01",
        "at 10:20:30 on page 100-200",
        "(555) 555-0123",
    ],
)
def test_what_only_looks_like_personal_data_is_not(text: str) -> None:
    assert find_personal(text) == []


def test_redacted_texts_keep_all_else_and_hold_nothing_more_to_find() -> None:
    text = "Ada <ada@engines.org>, +49 30 901820, likes cats."
    clean, kinds = redact(text)
    assert clean == "Ada <[EMAIL]>, [PHONE], likes cats."
    assert kinds == ["e-mail address", "telephone number"]
    assert redact(clean) == (clean, [])


def test_lists_and_objects_are_redacted_within() -> None:
    row = {"messages": [{"role": "user", "content": "I am ada@engines.org"}], "n": 3}
    clean, kinds = redact_all(row)
    assert clean == {"messages": [{"role": "user", "content": "I am [EMAIL]"}], "n": 3}
    assert kinds == ["e-mail address"]


@given(st.text(alphabet=string.digits, min_size=12, max_size=18))
def test_exactly_one_check_digit_is_right(digits: str) -> None:
    assert sum(luhn(digits + last) for last in string.digits) == 1


@given(st.text(max_size=80))
def test_any_text_can_be_redacted_and_keeps_what_is_no_find(text: str) -> None:
    found = find_personal(text)
    ends = [0, *(one.end for one in found)]
    starts = [*(one.start for one in found), len(text)]
    clean = redact(text)[0]
    for end, start in zip(ends, starts, strict=True):
        assert text[end:start] in clean


def test_languages_are_told_and_short_texts_are_not_guessed() -> None:
    codes = languages_of(
        [
            "The weather will be fine in the north tomorrow.",
            "Das Wetter wird morgen im Norden schön sein.",
            "ok",
            "12345 67890 12345 67890",
        ]
    )
    assert codes == ["en", "de", None, None]


def test_a_language_of_a_tenth_of_the_records_is_a_main_one() -> None:
    mixture = Mixture.of(["en"] * 88 + ["fr"] * 10 + ["de"] * 2 + [None])
    assert (mixture.counts, mixture.unsure) == ({"en": 88, "fr": 10, "de": 2}, 1)
    assert mixture.main == ["en", "fr"]


def test_findings_are_ordered_by_kind_and_then_by_how_clear_they_are() -> None:
    order = [Finding("leak", 3, ""), Finding("wrong_label", 1, "", 0.2)]
    order += [Finding("duplicate", 2, ""), Finding("wrong_label", 0, "", 0.9)]
    assert [one.place for one in in_order(order)] == [2, 3, 0, 1]
    assert next(iter(KINDS)) == "duplicate"
