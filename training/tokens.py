"""Byte-level BPE trained on the training split, and the split as one stream of token ids."""

from pathlib import Path

import numpy as np
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from training.corpus import Document

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(documents: list[Document], vocab_size: int) -> PreTrainedTokenizerFast:
    bpe = ByteLevelBPETokenizer()
    texts = [document.text for document in documents if document.split == "train"]
    bpe.train_from_iterator(texts, vocab_size, special_tokens=[END_OF_TEXT], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def token_stream(
    documents: list[Document], split: str, tokenizer: PreTrainedTokenizerFast
) -> np.ndarray:
    """Ids of all documents of a split, each followed by the end-of-text token, shape (tokens,)."""
    texts = [document.text for document in documents if document.split == split]
    if not texts:
        return np.empty(0, dtype=np.int32)
    end = [tokenizer.eos_token_id]
    return np.concatenate(
        [np.asarray(ids + end, dtype=np.int32) for ids in tokenizer(texts)["input_ids"]]
    )


def write_split(documents: list[Document], split: str, path: Path) -> None:
    """The held-out text, documents separated by form feeds: it ships with the model."""
    path.write_text("\f".join(d.text for d in documents if d.split == split) + "\n")
