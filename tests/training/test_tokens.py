"""The tokenizer learns from the training split alone and loses nothing; streams end documents."""

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from training.corpus import Document
from training.tokens import END_OF_TEXT, token_stream, train_tokenizer, write_split

# Their names decide: two for training, one to validate, one to test.
TRAIN = Document("austen/emma_001", "the whale and the sea " * 50)
TRAIN_TOO = Document("moby/chapter_1", "the ship and the whale " * 50)
VALIDATION = Document("austen/emma_026", "zyzzyva " * 500)
TEST = Document("austen/emma_009", "quux — thé 東京 , and so on .")
DOCUMENTS = [TRAIN, VALIDATION, TEST, TRAIN_TOO]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(DOCUMENTS, vocab_size=270)


def test_the_vocabulary_is_as_large_as_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 270


def test_only_the_training_split_is_learnt_from(tokenizer: PreTrainedTokenizerFast) -> None:
    # Bytes are known to every tokenizer; `zy`, the commonest pair of all documents, is not.
    vocabulary = tokenizer.get_vocab()
    assert "the" in vocabulary
    assert not [token for token in vocabulary if "z" in token and len(token) > 1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_any_text_comes_back_as_it_was(
    tokenizer: PreTrainedTokenizerFast, document: Document
) -> None:
    assert tokenizer.decode(tokenizer.encode(document.text)) == document.text


def test_the_end_of_text_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.encode(END_OF_TEXT) == [tokenizer.eos_token_id]


def test_a_stream_holds_each_document_of_its_split_and_an_end(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids = token_stream(DOCUMENTS, "train", tokenizer)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == TRAIN.text + END_OF_TEXT + TRAIN_TOO.text + END_OF_TEXT


def test_the_streams_of_the_splits_share_no_document(tokenizer: PreTrainedTokenizerFast) -> None:
    for split, document in (("validation", VALIDATION), ("test", TEST)):
        ids = token_stream(DOCUMENTS, split, tokenizer)
        assert tokenizer.decode(ids) == document.text + END_OF_TEXT


def test_a_split_without_documents_is_an_empty_stream(tokenizer: PreTrainedTokenizerFast) -> None:
    assert token_stream([TRAIN], "test", tokenizer).shape == (0,)


def test_a_split_is_written_with_form_feeds_between_documents(tmp_path: Path) -> None:
    write_split(DOCUMENTS, "train", tmp_path / "train.txt")
    assert (tmp_path / "train.txt").read_text() == f"{TRAIN.text}\f{TRAIN_TOO.text}\n"
