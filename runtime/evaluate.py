"""Held-out quality at any plan: NLL and next-token accuracy, with what bits per byte need.

Takes a text of documents, separated by form feeds; cuts each into windows. All plans see the same
windows, so differences between plans are paired.

Shapes: B rows of a batch, S tokens of the longest of them, T tokens predicted in a row, V
vocabulary, W windows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from runtime.bootstrap import Estimate, Tally, difference
from runtime.checkpoint import Checkpoint

SEPARATOR = "\f"
MIN_WINDOW_TOKENS = 32  # of a document's last window; shorter ones give too little context
BATCH_TOKENS = 4096  # a fifth faster than one window of 512 at a time; larger ones gain nothing


class TextError(ValueError):
    """The text cannot be evaluated on."""


@dataclass(frozen=True)
class Document:
    """A document, its token ids, and where in the text each token ends, in characters."""

    text: str
    ids: Sequence[int]
    ends: Sequence[int]

    def num_bytes(self, first: int, stop: int) -> int:
        """Bytes of the text after token `first`, to the end of the last token before `stop`."""
        return len(self.text[self.ends[first] : self.ends[stop - 1]].encode())


@dataclass(frozen=True)
class Windows:
    """Token ids of every window, its document, and the bytes of what it has to predict."""

    ids: Sequence[Sequence[int]]
    documents_W: np.ndarray
    num_bytes: int

    def split(self, every: int) -> tuple["Windows", "Windows"]:
        """Every so many windows, and the others. Raises TextError if that leaves no such window."""
        if len(self.ids) < every:
            raise TextError(f"{len(self.ids)} windows; {every} or more are needed")
        chosen_W = np.arange(len(self.ids)) % every == every - 1
        return tuple(
            Windows(
                [self.ids[number] for number in np.flatnonzero(mask_W)],
                self.documents_W[mask_W],
                round(self.num_bytes * mask_W.mean()),
            )
            for mask_W in (chosen_W, ~chosen_W)
        )

    @property
    def num_tokens(self) -> int:
        """Tokens to predict: all but the first of each window."""
        return sum(len(ids) - 1 for ids in self.ids)

    @property
    def num_documents(self) -> int:
        return len(np.unique(self.documents_W))

    @property
    def bytes_per_token(self) -> float:
        return self.num_bytes / self.num_tokens


@dataclass(frozen=True)
class Quality:
    """Nats and hits per predicted token, by window."""

    nll: Tally
    accuracy: Tally

    @classmethod
    def of(cls, windows: Windows, nats_W: np.ndarray, hits_W: np.ndarray) -> "Quality":
        tokens_W = np.array([len(ids) - 1 for ids in windows.ids])
        documents_W = windows.documents_W
        return cls(Tally(nats_W, tokens_W, documents_W), Tally(hits_W, tokens_W, documents_W))


class Scores(NamedTuple):
    """How well each token of a row, its first excepted, was foreseen."""

    nats_T: np.ndarray
    hits_T: np.ndarray


def read_documents(checkpoint: Checkpoint, text: str) -> list[Document]:
    """The text's documents in tokens; a text without form feeds is one document."""
    documents = []
    for part in text.split(SEPARATOR):
        tokens = checkpoint.tokenizer(part, return_offsets_mapping=True)
        ends = [end for _, end in tokens["offset_mapping"]]
        documents.append(Document(part, tokens["input_ids"], ends))
    return documents


def cut_windows(documents: Sequence[Document], window: int, limit: int | None = None) -> Windows:
    """Consecutive windows of `window` tokens, two or more; none reaches into another document.

    A document's last window may be shorter, down to MIN_WINDOW_TOKENS. `limit` takes so many,
    evenly spread. Raises TextError if there is none.
    """
    least = min(window, MIN_WINDOW_TOKENS)
    spans = []
    for number, document in enumerate(documents):
        for first in range(0, len(document.ids) - least + 1, window):
            spans.append((number, first, min(first + window, len(document.ids))))
    if not spans:
        longest = max(len(document.ids) for document in documents)
        raise TextError(f"the longest document has {longest} tokens; a window takes {least}")
    if limit is not None and limit < len(spans):
        spans = [spans[each] for each in np.linspace(0, len(spans) - 1, limit).astype(int)]
    return Windows(
        [documents[number].ids[first:stop] for number, first, stop in spans],
        np.array([number for number, _, _ in spans]),
        sum(documents[number].num_bytes(first, stop) for number, first, stop in spans),
    )


def evaluate(
    checkpoint: Checkpoint,
    windows: Windows,
    plan: Sequence[int],
    on_tokens: Callable[[int], object] = lambda _num: None,
    batch_tokens: int = BATCH_TOKENS,
) -> Quality:
    """Teacher-forced quality of every window with the layers at `plan`."""
    scores = score(checkpoint, windows.ids, plan, on_tokens, batch_tokens)
    nats_W = np.array([nats_T.sum() for nats_T, _ in scores])
    hits_W = np.array([hits_T.sum() for _, hits_T in scores])
    return Quality.of(windows, nats_W, hits_W)


def evaluate_answers(
    checkpoint: Checkpoint, windows: Windows, plan: Sequence[int], prefill_plan: Sequence[int]
) -> Tally:
    """NLL of every window's second half at `plan`, its first half being a prompt at the other."""
    scores = score(checkpoint, windows.ids, plan, prefill_plan=prefill_plan)
    answers = [nats_T[num_prefilled(len(nats_T)) :] for nats_T, _ in scores]
    return Tally(
        np.array([nats_T.sum() for nats_T in answers]),
        np.array(list(map(len, answers))),
        windows.documents_W,
    )


def num_prefilled(num_predicted: int) -> int:
    """Tokens of a row's prompt, less its last, which makes the first of the answer."""
    return num_predicted // 2


@torch.inference_mode()
def score(
    checkpoint: Checkpoint,
    rows: Sequence[Sequence[int]],
    plan: Sequence[int],
    on_tokens: Callable[[int], object] = lambda _num: None,
    batch_tokens: int = BATCH_TOKENS,
    prefill_plan: Sequence[int] | None = None,
) -> list[Scores]:
    """Scores of every row of token ids, in batches; `on_tokens` is told what a batch predicted.

    Batches are padded on the right, where no token of a causal model looks. With a `prefill_plan`
    the first half of each row, its last token excepted, runs at that.
    """
    scores: dict[int, Scores] = {}
    with checkpoint.dial.at(plan):
        for batch in _batches(rows, batch_tokens):
            ids_BS = pad_sequence([torch.tensor(rows[row]) for row in batch], batch_first=True)
            ids_BS = ids_BS.to(checkpoint.model.device)
            if prefill_plan is not None:
                first_B = torch.tensor([num_prefilled(len(rows[row]) - 1) for row in batch])
                is_answer_BS = torch.arange(ids_BS.shape[1]) >= first_B[:, None]
                choice_T = is_answer_BS.long().flatten().to(ids_BS.device)
                checkpoint.dial.set_by_token([prefill_plan, plan], choice_T)
            logits_BSV = checkpoint.model(ids_BS).logits
            for row, ids_S, logits_SV in zip(batch, ids_BS, logits_BSV, strict=True):
                num_predicted = len(rows[row]) - 1
                targets_T = ids_S[1 : num_predicted + 1]
                logits_TV = logits_SV[:num_predicted].float()
                nats_T = cross_entropy(logits_TV, targets_T, reduction="none").double()
                hits_T = logits_TV.argmax(-1) == targets_T
                scores[row] = Scores(nats_T.cpu().numpy(), hits_T.cpu().numpy())
            on_tokens(sum(len(rows[row]) - 1 for row in batch))
    return [scores[row] for row in range(len(rows))]


def _batches(rows: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of the rows, longest first, so that rows of a batch are of about one length."""
    left = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    while left:
        size = max(1, batch_tokens // len(rows[left[0]]))
        yield left[:size]
        left = left[size:]


def retention(at_plan: Tally, at_full: Tally) -> Estimate:
    """Perplexity at full k' over that at the plan, paired, of NLLs; 1.0 = as good."""
    return Estimate(*map(math.exp, difference(at_full, at_plan)))
