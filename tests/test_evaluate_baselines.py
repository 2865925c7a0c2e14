"""The systems without weights: where sentences end, how many words, which neighbour."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instil.core.errors import DataError
from instil.core.protocol import Generator
from instil.data.records import Record
from instil.evaluate.baselines import FirstWords, Lead1, NearestNeighbour, baselines_of
from instil.evaluate.sentences import first_sentence

SENTENCES = [
    ("One sentence. Another one.", "One sentence."),
    ("No end at all", "No end at all"),
    ("", ""),
    ("Is it one? Yes.", "Is it one?"),
    ("Wait... there is more. Now.", "Wait... there is more."),
    ("Use tools, e.g. Make or CMake, to build. Then run.", "Use tools, e.g. Make or CMake, to build."),
    ("Written by Dr. Smith and Prof. Jones. Enjoy.", "Written by Dr. Smith and Prof. Jones."),
    ("Based on work of J. R. R. Tolkien and others. Fine.", "Based on work of J. R. R. Tolkien and others."),
    ("A library written in C. It is fast.", "A library written in C."),
    ("Version 2.0.1 of foo.bar is out. Get it.", "Version 2.0.1 of foo.bar is out."),
    ("The U.S. Geological Survey maps. Really.", "The U.S. Geological Survey maps."),
    ("It was made in the U.S. The rest is elsewhere.", "It was made in the U.S."),
    ("Supports PNG, JPEG, etc. The rest is planned.", "Supports PNG, JPEG, etc."),
    ("Supports PNG, JPEG, etc. and more. The rest.", "Supports PNG, JPEG, etc. and more."),
    ("See fig. 3 and no. 5 for more. Done.", "See fig. 3 and no. 5 for more."),
    ("Is it safe? The answer is no. Use another.", "Is it safe?"),
    ("The answer is no. Use another.", "The answer is no."),
    ('He said "stop." Then he left.', 'He said "stop."'),
    ("(It is optional.) Skip it.", "(It is optional.)"),
    ("The .NET runtime and node.js work. Both do.", "The .NET runtime and node.js work."),
    ("First line\nwraps here. Second.", "First line wraps here."),
    ("A heading\n\nA paragraph. More.", "A heading"),
    ("1. Install it. 2. Run it.", "1. Install it."),
    ("It dates from 1999. New ones came.", "It dates from 1999."),
    ("Made by Foo Inc. It sells bars.", "Made by Foo Inc."),
    ("Made by Foo Inc. Berlin, in Germany. More.", "Made by Foo Inc. Berlin, in Germany."),
    ("最初の文です。次の文です。", "最初の文です。"),
    ("Первое предложение. Второе.", "Первое предложение."),
    ("पहला वाक्य। दूसरा वाक्य।", "पहला वाक्य।"),
    ("By W.N. Venables and B.D. Ripley. More.", "By W.N. Venables and B.D. Ripley."),
    ("B.A.T.M.A.N. (better than before) is new. More.", "B.A.T.M.A.N. (better than before) is new."),
    ("It does the following:\n - one thing\n - another. Good.", "It does the following:"),
    (". Odd start. End.", "."),
]


@pytest.mark.parametrize(("text", "expected"), SENTENCES)
def test_first_sentence(text: str, expected: str) -> None:
    assert first_sentence(text) == expected


@given(st.text())
def test_first_sentence_is_the_beginning_of_the_text(text: str) -> None:
    assert " ".join(text.split()).startswith(first_sentence(text))


def _records(*pairs: tuple[str, str]) -> list[Record]:
    return [Record(str(number), source, (target,)) for number, (source, target) in enumerate(pairs)]


TRAIN = _records(
    ("a fast parser for JSON documents", "JSON parser"),
    ("a game about penguins on ice", "penguin game for children"),
    ("the library that parses XML documents", "XML parser library"),
    ("", "nothing"),
    ("読み取りライブラリ", "日本語"),
)


def test_first_words_copies_the_mean_number_of_target_words() -> None:
    system = FirstWords.of_train(_records(("x", "one two"), ("y", "one two three four")))
    assert system.words == 3
    assert system.generate(["a b  c d e", "a", ""], max_new_tokens=1) == ["a b c", "a", ""]


def test_nearest_neighbour_finds_the_duplicate() -> None:
    system = NearestNeighbour(TRAIN)
    for place in (0, 1, 2, 4):
        assert system.nearest(TRAIN[place].source) == place
    assert system.generate(["Penguins slide over the ICE"], max_new_tokens=9) == ["penguin game for children"]
    assert system.generate(["", "zzz"], max_new_tokens=9) == ["JSON parser"] * 2


def test_nearest_neighbour_agrees_with_dense_cosines() -> None:
    generator = np.random.default_rng(0)
    words = [f"w{number}" for number in range(40)]
    sources = [" ".join(generator.choice(words, generator.integers(1, 30))) for _ in range(80)]
    train, queries = sources[:60], sources[60:]
    counts_RW = np.array([[source.split().count(word) for word in words] for source in train])
    rarity_W = 1 + np.log((1 + len(train)) / (1 + (counts_RW > 0).sum(0)))

    def vector(counts: np.ndarray) -> np.ndarray:
        return np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * rarity_W

    rows = vector(counts_RW)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    system = NearestNeighbour(_records(*((source, "target") for source in train)))
    for query in queries:
        cosines = rows @ vector(np.array([query.split().count(word) for word in words]))
        assert cosines[system.nearest(query)] == pytest.approx(cosines.max(), rel=1e-12)


def test_baselines_are_generators_without_weights() -> None:
    systems = baselines_of(TRAIN)
    assert list(systems) == ["lead1", "first_words", "nearest_neighbour"]
    for name, system in systems.items():
        assert isinstance(system, Generator)
        assert (system.name, system.parameters, system.bytes) == (name, 0, 0)
        assert system.generate([], max_new_tokens=5) == []


def test_no_train_records_is_one_clear_line() -> None:
    with pytest.raises(DataError, match="train"):
        NearestNeighbour([])
    with pytest.raises(DataError, match="train"):
        FirstWords.of_train([])
    assert Lead1().generate(["A. B."], max_new_tokens=1) == ["A. B."]
