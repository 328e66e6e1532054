"""What `check` says of records before anything is learnt."""

from __future__ import annotations

import random

import pytest

from tunesmith.data.batch import Cut, Encoded, EncodedStream
from tunesmith.data.records import Conversation, Document, LabelledText, Message
from tunesmith.quality.balance import class_balance
from tunesmith.quality.duplicates import find_duplicates
from tunesmith.quality.leaks import find_leaks
from tunesmith.quality.lengths import Lengths, histogram, token_lengths
from tunesmith.quality.similarity import Signatures
from tunesmith.quality.targets import cut_sentence, find_targets

STORY = "the quick brown fox jumps over the lazy dog while the cat sleeps under an old oak tree"


def documents(*texts: str) -> list[Document]:
    return [Document(text=text) for text in texts]


def labelled(*pairs: tuple[str, str]) -> list[LabelledText]:
    return [LabelledText(text=text, label=label) for text, label in pairs]


def chat(question: str, answer: str) -> Conversation:
    turns = [Message(role="user", content=question), Message(role="assistant", content=answer)]
    return Conversation(messages=turns)


def example(weights: list[float], cut: Cut | None = None) -> Encoded:
    return Encoded({"text": EncodedStream((1,) * len(weights), tuple(weights))}, cut=cut)


def test_exact_duplicates_are_grouped_without_case_and_white_space() -> None:
    found = find_duplicates(documents("A b", "c", "a  B", "d", "a b"))
    assert found.exact == [[0, 2, 4]]
    assert found.repeated == 2
    assert found.near == []


def test_near_duplicates_are_paired_with_their_similarity() -> None:
    other = STORY.replace("lazy", "sleepy")
    found = find_duplicates(documents(STORY, "nothing like it at all", other))
    assert [(pair.first, pair.second) for pair in found.near] == [(0, 2)]
    assert found.near[0].similarity == pytest.approx(15 / 19)
    assert found.exact == []


def test_a_chain_of_texts_ends_where_one_is_no_longer_like_what_stays() -> None:
    a = " ".join(f"w{n}" for n in range(40))
    b = a.replace("w35 w36 w37 w38 w39", "o1 o2 o3 o4 o5")
    c = b.replace("w1 w2 w3 w4 w5 ", "v1 v2 v3 v4 v5 ")
    alike = Signatures([a, b, c])
    assert alike.jaccard(0, 1) >= 0.7
    assert alike.jaccard(1, 2) >= 0.7 > alike.jaccard(0, 2)
    found = find_duplicates(documents(a, b, c))
    assert [(pair.first, pair.second) for pair in found.near] == [(0, 1)]


def test_every_near_duplicate_is_like_one_that_is_none() -> None:
    chooses = random.Random(3)
    words = [f"w{n}" for n in range(60)]
    texts = [" ".join(words[n % 20 : n % 20 + 30 + chooses.randrange(8)]) for n in range(80)]
    found = find_duplicates(documents(*texts))
    firsts = [p for p in range(80) if not any(p in g[1:] for g in found.exact)]
    gone = {pair.second for pair in found.near}
    assert gone
    assert not gone & {pair.first for pair in found.near}
    assert all(pair.first < pair.second for pair in found.near)
    alike, stay = Signatures(texts), [place for place in firsts if place not in gone]
    assert all(alike.jaccard(a, b) < 0.9 for a in stay for b in stay if a < b)


def test_one_text_under_two_labels_is_a_contradiction() -> None:
    found = find_duplicates(labelled(("a", "x"), ("A", "y"), ("b", "x"), ("b", "x")))
    assert found.contradictions == [[0, 1]]
    assert found.exact == [[0, 1], [2, 3]]


def test_texts_without_words_are_like_no_other_but_themselves() -> None:
    found = find_duplicates(documents("🙂", "!", "?!"))
    assert found.near == found.exact == []


def test_no_pair_from_similarity_eight_tenths_on_is_missed() -> None:
    draw = random.Random(0)
    words = [f"w{i}" for i in range(500)]
    texts = []
    for _ in range(150):
        text = draw.choices(words, k=60)
        changed = list(text)
        changed[draw.randrange(60)] = "other"
        texts += [" ".join(text), " ".join(changed)]
    signatures = Signatures(texts)
    close = {
        (i, j) for i in range(300) for j in range(i + 1, 300) if signatures.jaccard(i, j) >= 0.8
    }
    found = find_duplicates(documents(*texts), threshold=0.8)
    assert len(close) == 150
    assert {(pair.first, pair.second) for pair in found.near} == close


def test_leaks_name_the_place_in_test_and_in_train() -> None:
    train = documents("one", STORY, "two")
    test = documents("unseen", "TWO", STORY.replace("oak", "elm"))
    found = find_leaks(train, test)
    assert [(pair.first, pair.second) for pair in found.exact] == [(1, 2)]
    assert [(pair.first, pair.second) for pair in found.near] == [(2, 1)]
    assert found.share == pytest.approx(1 / 3)


def test_the_same_question_with_another_answer_is_a_leak_of_its_own() -> None:
    train = [chat("What is up?", "The sky."), chat("Who?", "Me.")]
    test = [chat("what is  up?", "Nothing."), chat("Who?", "Me."), chat("Where?", "There.")]
    found = find_leaks(train, test)
    assert [(pair.first, pair.second) for pair in found.same_prompt] == [(0, 0)]
    assert [(pair.first, pair.second) for pair in found.exact] == [(1, 1)]


def test_an_empty_side_has_no_leaks() -> None:
    assert find_leaks([], documents("a")).exact == find_leaks(documents("a"), []).near == []
    assert find_leaks(documents("a"), []).share == 0.0


def test_balance_counts_classes_the_largest_first() -> None:
    train = labelled(*[("a", "small")] * 2, *[("b", "large")] * 30)
    test = labelled(("c", "large"), ("d", "large"), ("e", "new"), ("f", "large"))
    found = class_balance(train, test)
    assert list(found.train.items()) == [("large", 30), ("small", 2)]
    assert (found.ratio, found.majority) == (15.0, 0.75)
    assert (found.rare, found.unlearnt, found.untested) == (["small"], ["new"], ["small"])
    assert len(found.warnings()) == 4
    assert "15 times" in found.warnings()[0]


def test_balanced_classes_give_no_warning() -> None:
    records = labelled(*[("a", "x")] * 6, *[("b", "y")] * 6)
    assert class_balance(records, records).warnings() == []


def test_lengths_describe_a_distribution() -> None:
    found = Lengths.of([1, 2, 3, 4, 10])
    assert (found.count, found.total, found.smallest, found.largest) == (5, 20, 1, 10)
    assert (found.median, found.mean, found.p95) == (3.0, 4.0, pytest.approx(8.8))
    assert Lengths.of([]).largest == 0
    assert token_lengths([example([0.0, 1.0]), example([1.0] * 4)]).total == 6


def test_a_histogram_counts_every_number_once() -> None:
    found = histogram([1, 1, 2, 9], bins=4)
    assert found.counts == [3, 0, 0, 1]
    assert len(found.edges) == 5


def test_the_first_token_of_a_record_is_never_counted_as_learnt() -> None:
    found = find_targets([example([1.0, 1.0, 0.0]), example([1.0])])
    assert found.trained.total == 1
    assert found.none == [1]
    assert found.share == 0.25


def test_a_label_is_a_target() -> None:
    encoded = Encoded({"text": EncodedStream((1, 2))}, label=0)
    assert find_targets([encoded]).none == []


def test_what_was_cut_is_said_in_a_sentence() -> None:
    examples = [example([0.0, 1.0], Cut("left", 7, 2)), example([0.0, 1.0])]
    assert cut_sentence(find_targets(examples), ["a", "b"], "train") == (
        "1 of 2 train records were cut to fit (left): 7 tokens, 2 of them to be learnt (a)."
    )
    assert cut_sentence(find_targets(examples[1:]), ["b"], "train") is None
