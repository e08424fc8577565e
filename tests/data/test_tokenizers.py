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
OF_TEXTS = (Characters(), Words(), WordPieces(vocab_size=18))
OF_BYTES = (Bytes(), WordPieces(vocab_size=274, byte_fallback=True))


def each(*tokenizers):
    return pytest.mark.parametrize("tokenizer", tokenizers, ids=lambda t: type(t).__name__)


every_kind = each(*OF_TEXTS, *OF_BYTES)


@dataclass(frozen=True)
class Holder:
    tokenizer: Characters | Words | Bytes | WordPieces = field(default_factory=Characters)


@every_kind
def test_decoding_inverts_encoding_up_to_white_space(tokenizer):
    tokenizer = tokenizer.resolve(iter(TEXTS))
    for text in (*TEXTS, "", "  the  log "):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == " ".join(text.split())
        assert tokenizer.decode(np.array(ids, np.int32)) == tokenizer.decode(ids)
        assert all(0 <= i < tokenizer.size for i in ids)


@every_kind
def test_every_id_has_a_token(tokenizer):
    tokenizer = tokenizer.resolve(TEXTS)
    assert len(tokenizer.tokens) == len(set(tokenizer.tokens)) == tokenizer.size
    assert tokenizer.starts_word.shape == (tokenizer.size,)
    assert tokenizer.starts_word.dtype == bool


@each(*OF_TEXTS)
def test_the_vocabulary_is_that_of_the_texts(tokenizer):
    tokenizer = tokenizer.resolve(TEXTS)
    assert all(tokenizer.decode([i]).strip("▁") in " ".join(TEXTS) for i in range(tokenizer.size))


@each(*OF_BYTES)
def test_tokenizers_with_bytes_encode_every_text(tokenizer):
    tokenizer = tokenizer.resolve(TEXTS)
    for text in ("the für Übermut 😀 中文", "ü", "\x00 <0xC3> ␣ ½\ufffd", "<unk>"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= i < tokenizer.size for i in ids)
        starts = tokenizer.starts_word[ids].sum() or ids.count(tokenizer.separator) + 1
        assert starts == len(text.split())
    assert [tokenizer.tokens[i] for i in tokenizer.encode("ü")][-2:] == ["<0xC3>", "<0xBC>"]


@each(*OF_BYTES)
def test_incomplete_characters_are_replaced(tokenizer):
    """A network may predict a part of a character's bytes."""
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
def test_ids_mark_word_boundaries(tokenizer):
    """Beam search with a word language model needs them."""
    tokenizer = tokenizer.resolve(TEXTS)
    ids = np.array(tokenizer.encode("the cat sat"))
    if tokenizer.separator is None:
        assert tokenizer.starts_word[ids].sum() == 3
        assert tokenizer.starts_word[ids[0]]
    else:
        assert not tokenizer.starts_word.any()
        assert (ids == tokenizer.separator).sum() == 2


@every_kind
def test_a_configured_vocabulary_is_kept(tokenizer):
    resolved = tokenizer.resolve(TEXTS)
    assert resolved.resolve(["quite another"]) == resolved


@every_kind
def test_the_saved_config_contains_the_vocabulary(tokenizer):
    holder = Holder(tokenizer.resolve(TEXTS))
    saved = json.loads(json.dumps(to_config_dict(holder).to_dict()))
    loaded = from_config_dict(Holder, saved)
    assert loaded == holder
    assert loaded.tokenizer.encode(TEXTS[0]) == holder.tokenizer.encode(TEXTS[0])


@pytest.mark.parametrize(
    ("tokenizer", "named"),
    [
        (Characters(), "'ü', 'x'"),
        (Words(), "'für', 'max'"),
        (WordPieces(vocab_size=18), "'ü', 'x'"),
    ],
)
def test_unknown_characters_and_words_are_named(tokenizer, named):
    with pytest.raises(UserError, match=named):
        tokenizer.resolve([*TEXTS, "f r"]).encode("the cat für max")


def test_characters_are_sorted_and_show_the_space():
    tokenizer = Characters().resolve(["ba", "c"])
    assert tokenizer.vocabulary == " abc"
    assert tokenizer.tokens == ("␣", "a", "b", "c")
    assert tokenizer.encode("cab") == [3, 1, 2]


def test_bytes_of_printable_characters_are_shown_as_such():
    tokenizer = Bytes()
    assert tokenizer.size == 256 and tokenizer.is_resolved
    assert tokenizer.encode(" A\t b") == [65, 32, 98]
    assert [tokenizer.tokens[i] for i in (65, 126, 32)] == ["A", "~", "␣"]
    assert [tokenizer.tokens[i] for i in (0, 127, 0xC3)] == ["<0x00>", "<0x7F>", "<0xC3>"]


def test_words_are_sorted():
    assert Words().resolve(["b a", "c a"]).vocabulary == ("a", "b", "c")


def test_word_pieces_are_deterministic(capfd):
    first, second = (WordPieces(vocab_size=18).resolve(iter(TEXTS)) for _ in range(2))
    assert first.model == second.model
    assert first.size == 18
    assert first.model != WordPieces(vocab_size=18).resolve([*TEXTS, "the the log"]).model
    assert capfd.readouterr() == ("", "")


def test_word_starts_are_marked():
    tokenizer = WordPieces(vocab_size=18).resolve(TEXTS)
    letter = tokenizer.tokens.index("t")
    for i, starts in enumerate(tokenizer.starts_word):
        assert (" " in tokenizer.decode([letter, i, letter])) == starts


def test_word_pieces_do_not_normalise_characters():
    text = "½ TEE ﬁn Straße"
    tokenizer = WordPieces(vocab_size=12).resolve([text])
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_word_pieces_are_trained_on_long_texts():
    tokenizer = WordPieces(vocab_size=6).resolve(["abc " * 3000 + "d", "e"])
    assert tokenizer.decode(tokenizer.encode("abc d")) == "abc d"


@pytest.mark.parametrize("byte_fallback", [False, True])
def test_the_least_vocabulary_in_the_error_is_exact(byte_fallback):
    with pytest.raises(ConfigError, match=r"vocab_size: invalid size 2: expected at least") as e:
        WordPieces(vocab_size=2, byte_fallback=byte_fallback).resolve(TEXTS)
    least = int(str(e.value).split("at least")[1].split()[0])
    assert WordPieces(least, byte_fallback).resolve(TEXTS).encode(TEXTS[0])
    with pytest.raises(ConfigError, match=f"expected at least {least} "):
        WordPieces(least - 1, byte_fallback).resolve(TEXTS)


@pytest.mark.parametrize("byte_fallback", [False, True])
def test_a_vocabulary_is_as_large_as_few_texts_allow(byte_fallback, caplog):
    """A user with few texts need not know how many word pieces they have."""
    most = WordPieces(500, byte_fallback).resolve(iter(TEXTS))
    assert most.size < 500
    assert f"vocab_size lowered from 500 to {most.size}, the maximum for these texts" in caplog.text
    caplog.clear()
    assert WordPieces(most.size, byte_fallback).resolve(TEXTS) == most
    assert not caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Characters("aba"), "config.vocabulary: repeated entry 'a'"),
        (lambda: Words(("one", "two", "one")), "config.vocabulary: repeated entry 'one'"),
        (lambda: Words(("one", "two three")), "config.vocabulary: invalid word 'two three'"),
        (
            lambda: WordPieces(vocab_size=0),
            "config.vocab_size: invalid size 0: expected at least 1",
        ),
        (
            lambda: WordPieces(model="no base64"),
            "config.model: invalid model: expected a sentencepiece model",
        ),
        (
            lambda: WordPieces(model="aaaa"),
            "config.model: invalid model: expected a sentencepiece model",
        ),
        (
            lambda: WordPieces(vocab_size=18).resolve([]),
            "cannot train sentencepiece on these texts",
        ),
    ],
)
def test_invalid_configs_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_configured_model_must_match_vocab_size():
    model = WordPieces(vocab_size=18).resolve(TEXTS).model
    with pytest.raises(
        ConfigError, match=r"config\.vocab_size: invalid size 19: expected 18, as in the model"
    ):
        WordPieces(vocab_size=19, model=model)


@pytest.mark.parametrize(("vocab_size", "has_bytes"), [(18, False), (274, True)])
def test_a_configured_model_must_match_byte_fallback(vocab_size, has_bytes):
    tokenizer = WordPieces(vocab_size=vocab_size, byte_fallback=has_bytes).resolve(TEXTS)
    with pytest.raises(ConfigError, match=f"config.byte_fallback: .* expected {has_bytes}, as in"):
        replace(tokenizer, byte_fallback=not has_bytes)
