import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from research.common.config import from_config_dict, to_config_dict
from research.common.errors import ConfigError, UserError
from research.data.tokenizers import Bytes, Characters, WordPieces, Words

TEXTS = (
    "the cat sat on the mat",
    "the dog sat on the log",
    "a cat and a dog met on a mat",
    "nobody sat  on the\tdog",
)
OF_TEXTS = (Characters(), Words(), WordPieces(pieces=18))
OF_BYTES = (Bytes(), WordPieces(pieces=274, byte_fallback=True))


def each(*tokenizers):
    return pytest.mark.parametrize("tokenizer", tokenizers, ids=lambda t: type(t).__name__)


every_kind = each(*OF_TEXTS, *OF_BYTES)


@dataclass(frozen=True)
class Holder:
    tokenizer: Characters | Words | Bytes | WordPieces = field(default_factory=Characters)


@every_kind
def test_texts_survive_but_for_white_space(tokenizer):
    tokenizer = tokenizer.resolve(iter(TEXTS))
    for text in (*TEXTS, "", "  the  log "):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == " ".join(text.split())
        assert tokenizer.decode(np.array(ids, np.int32)) == tokenizer.decode(ids)
        assert all(0 <= i < tokenizer.size for i in ids)


@every_kind
def test_each_id_is_a_token(tokenizer):
    tokenizer = tokenizer.resolve(TEXTS)
    assert len(tokenizer.tokens) == len(set(tokenizer.tokens)) == tokenizer.size
    assert tokenizer.starts_word.shape == (tokenizer.size,)
    assert tokenizer.starts_word.dtype == bool


@each(*OF_TEXTS)
def test_the_texts_need_each_token(tokenizer):
    tokenizer = tokenizer.resolve(TEXTS)
    assert all(tokenizer.decode([i]).strip("▁") in " ".join(TEXTS) for i in range(tokenizer.size))


@each(*OF_BYTES)
def test_with_bytes_no_text_is_refused(tokenizer):
    tokenizer = tokenizer.resolve(TEXTS)
    for text in ("the für Übermut 😀 中文", "ü", "\x00 <0xC3> ␣ ½\ufffd", "<unk>"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= i < tokenizer.size for i in ids)
        starts = tokenizer.starts_word[ids].sum() or ids.count(tokenizer.separator) + 1
        assert starts == len(text.split())
    assert [tokenizer.tokens[i] for i in tokenizer.encode("ü")][-2:] == ["<0xC3>", "<0xBC>"]


@each(*OF_BYTES)
def test_broken_characters_are_shown_as_such(tokenizer):
    """A network may end a text in the middle of a character."""
    tokenizer = tokenizer.resolve(TEXTS)
    assert tokenizer.decode(tokenizer.encode("a ü")[:-1]) == "a \ufffd"


@every_kind
def test_any_ids_decode_to_single_spaced_words(tokenizer):
    tokenizer = tokenizer.resolve(TEXTS)
    rng = np.random.default_rng(0)
    for _ in range(50):
        text = tokenizer.decode(rng.integers(0, tokenizer.size, 12))
        assert text == " ".join(text.split())


@every_kind
def test_word_boundaries_can_be_told_from_the_ids(tokenizer):
    """What a beam search with a language model of words relies on."""
    tokenizer = tokenizer.resolve(TEXTS)
    ids = np.array(tokenizer.encode("the cat sat"))
    if tokenizer.separator is None:
        assert tokenizer.starts_word[ids].sum() == 3
        assert tokenizer.starts_word[ids[0]]
    else:
        assert not tokenizer.starts_word.any()
        assert (ids == tokenizer.separator).sum() == 2


@every_kind
def test_a_vocabulary_once_given_is_kept(tokenizer):
    resolved = tokenizer.resolve(TEXTS)
    assert resolved.resolve(["quite another"]) == resolved


@every_kind
def test_the_saved_config_is_all_that_is_needed(tokenizer):
    holder = Holder(tokenizer.resolve(TEXTS))
    saved = json.loads(json.dumps(to_config_dict(holder).to_dict()))
    loaded = from_config_dict(Holder, saved)
    assert loaded == holder
    assert loaded.tokenizer.encode(TEXTS[0]) == holder.tokenizer.encode(TEXTS[0])


@pytest.mark.parametrize(
    ("tokenizer", "named"),
    [(Characters(), "'ü', 'x'"), (Words(), "'für', 'max'"), (WordPieces(pieces=18), "'ü', 'x'")],
)
def test_what_is_unknown_is_named(tokenizer, named):
    with pytest.raises(UserError, match=named):
        tokenizer.resolve([*TEXTS, "f r"]).encode("the cat für max")


def test_characters_are_sorted_and_show_the_space():
    tokenizer = Characters().resolve(["ba", "c"])
    assert tokenizer.vocabulary == " abc"
    assert tokenizer.tokens == ("␣", "a", "b", "c")
    assert tokenizer.encode("cab") == [3, 1, 2]


def test_bytes_are_shown_as_characters_where_there_are_such():
    tokenizer = Bytes()
    assert tokenizer.size == 256 and tokenizer.is_resolved
    assert tokenizer.encode(" A\t b") == [65, 32, 98]
    assert [tokenizer.tokens[i] for i in (65, 126, 32)] == ["A", "~", "␣"]
    assert [tokenizer.tokens[i] for i in (0, 127, 0xC3)] == ["<0x00>", "<0x7F>", "<0xC3>"]


def test_words_are_sorted():
    assert Words().resolve(["b a", "c a"]).vocabulary == ("a", "b", "c")


def test_pieces_depend_on_the_texts_alone(capfd):
    first, second = (WordPieces(pieces=18).resolve(iter(TEXTS)) for _ in range(2))
    assert first.model == second.model
    assert first.size == 18
    assert first.model != WordPieces(pieces=18).resolve([*TEXTS, "the the log"]).model
    assert capfd.readouterr() == ("", "")


def test_the_piece_that_starts_a_word_is_set_apart():
    tokenizer = WordPieces(pieces=18).resolve(TEXTS)
    letter = tokenizer.tokens.index("t")
    for i, starts in enumerate(tokenizer.starts_word):
        assert (" " in tokenizer.decode([letter, i, letter])) == starts


def test_pieces_leave_the_letters_as_they_are():
    text = "½ TEE ﬁn Straße"
    tokenizer = WordPieces(pieces=12).resolve([text])
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_pieces_learn_from_texts_of_any_length():
    tokenizer = WordPieces(pieces=6).resolve(["abc " * 3000 + "d", "e"])
    assert tokenizer.decode(tokenizer.encode("abc d")) == "abc d"


@pytest.mark.parametrize("byte_fallback", [False, True])
@pytest.mark.parametrize(("asked", "bound"), [(500, "at most"), (2, "at least")])
def test_the_bound_that_the_error_names_can_be_had(asked, bound, byte_fallback):
    with pytest.raises(
        ConfigError, match=f"config.pieces: must be {bound} [0-9]+ .* is {asked}"
    ) as e:
        WordPieces(pieces=asked, byte_fallback=byte_fallback).resolve(TEXTS)
    pieces = int(str(e.value).split(bound)[1].split()[0])
    assert WordPieces(pieces=pieces, byte_fallback=byte_fallback).resolve(TEXTS).encode(TEXTS[0])
    beyond = pieces + (1 if bound == "at most" else -1)
    with pytest.raises(ConfigError, match=f"must be {bound} {pieces} "):
        WordPieces(pieces=beyond, byte_fallback=byte_fallback).resolve(TEXTS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Characters("aba"), "config.vocabulary: holds 'a' more than once"),
        (lambda: Words(("one", "two", "one")), "config.vocabulary: holds 'one' more than once"),
        (lambda: Words(("one", "two three")), "config.vocabulary: 'two three' is not one word"),
        (lambda: WordPieces(pieces=0), "config.pieces: must be positive"),
        (lambda: WordPieces(model="no base64"), "config.model: is no sentencepiece model"),
        (lambda: WordPieces(model="aaaa"), "config.model: is no sentencepiece model"),
        (lambda: WordPieces(pieces=18).resolve([]), "cannot learn from these texts"),
    ],
)
def test_wrong_configs_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_given_model_must_have_the_number_of_pieces():
    model = WordPieces(pieces=18).resolve(TEXTS).model
    with pytest.raises(ConfigError, match=r"config\.pieces: the given model has 18, not 19"):
        WordPieces(pieces=19, model=model)


@pytest.mark.parametrize(
    ("pieces", "held", "which"), [(18, False, "no pieces for bytes"), (274, True, "each byte")]
)
def test_a_given_model_must_have_pieces_for_bytes_or_not(pieces, held, which):
    fitting = WordPieces(pieces=pieces, byte_fallback=held).resolve(TEXTS)
    with pytest.raises(ConfigError, match=f"config.byte_fallback: must be {held}: .* {which}"):
        replace(fitting, byte_fallback=not held)
