"""WordPiece against upstream's ids, SentencePiece, and what both have in common."""

import io
import json
import os
import pickle
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import sentencepiece

from mplug2_jax.data.text import answer_text
from mplug2_jax.data.tokenizers import (
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    load_tokenizer,
)

GOLDENS = Path(__file__).parent.parent / "golden"
GOLDEN = json.loads((GOLDENS / "tokenizer.json").read_text())
TEXTS = ["a red circle moves left", "two blue squares", "naïve 東京", "it's 3-D"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def bert_subset() -> WordPieceTokenizer:
    """BERT's vocabulary, of which only the lines of the goldens' texts are real.

    Of these texts every substring that is in the full vocabulary is there, at its id,
    so longest-match-first has the same choices as with the full file.
    """
    subset = json.loads((GOLDENS / "wordpiece_subset.json").read_text())
    pieces = [f"[unused-{i}]" for i in range(subset["size"])]
    for index, piece in subset["pieces"].items():
        pieces[int(index)] = piece
    return WordPieceTokenizer.from_vocab(pieces)


@pytest.fixture(scope="module")
def bert_full() -> WordPieceTokenizer:
    path = os.environ.get("MPLUG2_VOCAB")
    if not path:
        pytest.skip("set MPLUG2_VOCAB to bert-base-uncased's vocab.txt")
    return WordPieceTokenizer.from_vocab(path)


@pytest.fixture(params=["wordpiece", "sentencepiece"])
def tokenizer(request) -> Tokenizer:
    if request.param == "wordpiece":
        return WordPieceTokenizer.from_words(TEXTS)
    return SentencePieceTokenizer.train(TEXTS, vocab_size=60)


@pytest.fixture(params=["subset", "full"])
def bert(request) -> WordPieceTokenizer:
    return request.getfixturevalue(f"bert_{request.param}")


def test_ids_equal_upstream(bert):
    assert (bert.vocab_size, bert.pad_id, bert.unk_id) == (30522, 0, 100)
    assert (bert.start_id, bert.end_id, bert.mask_id) == (101, 102, 103)
    for case in GOLDEN["captions"]:
        assert bert.encode(case["text"], 20) == case["ids"]
    for case in GOLDEN["questions"]:
        assert bert.encode(case["clean"], 25) == case["ids"]
    for case in GOLDEN["answers"]:
        assert bert.encode(answer_text(case["raw"]), 25) == case["ids"]


def test_decoded_texts_equal_upstream(bert):
    for case in GOLDEN["decode"]:
        assert bert.decode(case["ids"]) == case["text"]


def test_decoding_keeps_unknown_and_mask(bert):
    ids = [bert.start_id, bert.unk_id, bert.mask_id, bert.end_id, bert.pad_id]
    assert bert.decode(ids) == "[UNK] [MASK]"


def test_words_above_a_hundred_characters_are_unknown(bert_subset):
    kept, unknown = bert_subset.encode("a" * 100), bert_subset.encode("a" * 101)
    assert bert_subset.unk_id not in kept
    assert unknown == [bert_subset.start_id, bert_subset.unk_id]


def test_nothing_is_appended(tokenizer):
    ids = tokenizer.encode("a red circle")
    assert ids[0] == tokenizer.start_id
    assert tokenizer.end_id not in ids
    assert tokenizer.encode("") == [tokenizer.start_id]
    assert tokenizer.encode("a red circle[SEP]") == [*ids, tokenizer.end_id]
    assert tokenizer.encode("[SEP]") == [tokenizer.start_id, tokenizer.end_id]
    assert tokenizer.mask_id in tokenizer.encode("a [MASK] circle")


def test_truncation(tokenizer):
    ids = tokenizer.encode("two blue squares[SEP]")
    for length in range(1, len(ids) + 3):
        assert tokenizer.encode("two blue squares[SEP]", length) == ids[:length]


def test_batches_are_padded_on_the_right(tokenizer):
    texts = ["two blue squares[SEP]", "", "a red circle moves left[SEP]"]
    rows = [tokenizer.encode(text, 4) for text in texts]
    for pad_to, width in ((None, max(map(len, rows))), (7, 7)):
        tokens = tokenizer.encode_batch(texts, 4, pad_to)
        assert tokens.values.shape == tokens.mask.shape == (3, width)
        assert tokens.values.dtype == tokens.mask.dtype == np.int32
        for index, row in enumerate(rows):
            padding = width - len(row)
            np.testing.assert_array_equal(tokens.values[index], row + [0] * padding)
            assert tokens.mask[index].tolist() == [1] * len(row) + [0] * padding
    with pytest.raises(ValueError, match="4 tokens, more than pad_to=3"):
        tokenizer.encode_batch(texts, 4, 3)


def test_empty_batch(tokenizer):
    assert tokenizer.encode_batch([], 4).values.shape == (0, 0)


@pytest.mark.parametrize("text", ["a red circle moves left", "two blue squares"])
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text + "[SEP]")
    assert tokenizer.decode([*ids, 0, 0]) == text
    assert tokenizer.decode(np.asarray(ids)) == text
    assert tokenizer.unk_id not in ids


def test_unicode(tokenizer):
    assert tokenizer.unk_id not in tokenizer.encode("naïve 東京")
    assert tokenizer.unk_id in tokenizer.encode("🐶")
    assert tokenizer.encode("NAÏVE 東京") == tokenizer.encode("naïve 東京")


def test_save_and_load(tokenizer, tmp_path):
    for _ in range(2):  # over an older one as well
        tokenizer.save(tmp_path / "new" / "tokenizer")
    loaded = load_tokenizer(tmp_path / "new" / "tokenizer")
    assert type(loaded) is type(tokenizer)
    assert loaded.vocab_size == tokenizer.vocab_size
    for text in [*TEXTS, "un peu d'été[SEP]"]:
        assert loaded.encode(text) == tokenizer.encode(text)
    assert len(list((tmp_path / "new" / "tokenizer").iterdir())) == 2


def test_travels_to_worker_processes(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert copy.decode(copy.encode(TEXTS[0])) == TEXTS[0]


@pytest.mark.parametrize("index", [-1, 10_000])
def test_decoding_an_id_outside_the_vocabulary(tokenizer, index):
    with pytest.raises(ValueError, match=f"id {index} is outside the vocabulary"):
        tokenizer.decode([index])


def test_from_words_has_one_token_for_each_word():
    tokenizer = WordPieceTokenizer.from_words(TEXTS)
    assert len(tokenizer.encode("a red circle")) == 4
    assert len(tokenizer.encode("cab")) == 4  # spelt
    assert tokenizer.decode(tokenizer.encode("cab red")) == "cab red"
    again = WordPieceTokenizer.from_words(reversed(TEXTS))
    assert again.encode(TEXTS[2]) == tokenizer.encode(TEXTS[2])


def test_vocabulary_file_of_another_system(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join([*SPECIAL, "a", "\u2028", "##b"]).encode())
    tokenizer = WordPieceTokenizer.from_vocab(path)
    assert tokenizer.vocab_size == 8
    assert tokenizer.encode("ab") == [2, 5, 7]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n".join(["[PAD]", "[UNK]", "[SEP]", "a"]), r"lacks \[CLS\], \[MASK\]"),
        (
            "\n".join([*SPECIAL[1:], "[PAD]"]),
            r"begins with '\[UNK\]', expected \[PAD\]",
        ),
        ("\n".join([*SPECIAL, "a", "b", "a"]), "line 8 repeats 'a'"),
        ("\n".join([*SPECIAL, "a", "", "b"]), "line 7 is empty"),
        ("", "lacks"),
        (b"PK\x03\x04\xff\xfe\x00", "expected UTF-8 text"),
    ],
)
def test_invalid_vocabulary_files(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        WordPieceTokenizer.from_vocab(path)
    assert str(path) in str(error.value)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no vocabulary file at"):
        WordPieceTokenizer.from_vocab(tmp_path / "none.txt")
    with pytest.raises(FileNotFoundError, match="no SentencePiece model at"):
        SentencePieceTokenizer.from_file(tmp_path / "none.model")
    with pytest.raises(FileNotFoundError, match="pass --vocab PATH"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"kind": "bytes"}'])
def test_damaged_saved_tokenizer(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match="kind"):
        load_tokenizer(tmp_path)


def test_unreachable_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="download its vocab.txt and pass --vocab PATH"):
        WordPieceTokenizer.from_hub("no-such-owner/no-such-model")


def test_sentencepiece_ids_are_fixed(tmp_path):
    path = tmp_path / "words.model"
    trained = SentencePieceTokenizer.train(TEXTS, 60, path)
    loaded = SentencePieceTokenizer.from_file(path)
    for tokenizer in (trained, loaded):
        assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.start_id) == (0, 1, 2)
        assert (tokenizer.end_id, tokenizer.mask_id) == (3, 4)
    assert loaded.encode(TEXTS[2]) == trained.encode(TEXTS[2])
    assert trained.vocab_size <= 60
    assert list(tmp_path.iterdir()) == [path]


def test_sentencepiece_reads_text_files(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    with open(tmp_path / "a.txt", encoding="utf-8") as lines:
        from_file = SentencePieceTokenizer.train(lines, 60)
    from_texts = SentencePieceTokenizer.train(TEXTS, 60)
    assert from_file.encode(TEXTS[0]) == from_texts.encode(TEXTS[0])


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_invalid_sentencepiece_models(content):
    with pytest.raises(ValueError, match="SentencePiece"):
        SentencePieceTokenizer(content)


def test_sentencepiece_models_with_other_special_pieces():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(ValueError, match="begins with the pieces"):
        SentencePieceTokenizer(model.getvalue())


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [([], 60, "there is no text"), (TEXTS, 8, "Vocabulary size is smaller")],
)
def test_untrainable_sentencepiece(texts, size, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SentencePieceTokenizer.train(texts, size, tmp_path / "m")
    assert not list(tmp_path.iterdir())
