"""A choice task made of held-out text: which of four continuations follows a context?

The three wrong ones are from the same document, so its topic and style do not give the right one
away. All begin wherever a token does: at the starts of sentences a small model can but guess.

Shapes: I items.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

import numpy as np

from runtime.bootstrap import Tally
from runtime.checkpoint import Checkpoint
from runtime.evaluate import Document, TextError, score

CONTEXT_TOKENS, CONTINUATION_TOKENS = 96, 24
NUM_CONTINUATIONS = 4
CHANCE = 1 / NUM_CONTINUATIONS


@dataclass(frozen=True)
class Item:
    """A context and what may follow it, the truth first, in token ids; the document they are of."""

    document: int
    context: Sequence[int]
    continuations: Sequence[Sequence[int]]

    @property
    def rows(self) -> list[list[int]]:
        """The context with each of the continuations."""
        return [[*self.context, *continuation] for continuation in self.continuations]


def make_items(documents: Sequence[Document], num_items: int, seed: int = 0) -> list[Item]:
    """Up to `num_items` items, spread evenly over the documents; the same for the same seed.

    Raises TextError if no document has room for one.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(documents))
    by_document = [_items_of(number, documents[number], rng) for number in order]
    in_turn = chain.from_iterable(zip_longest(*by_document))
    items = list(islice((item for item in in_turn if item), num_items))
    if not items:
        longest = max(len(document.ids) for document in documents)
        raise TextError(
            f"the longest document has {longest} tokens; a choice item takes {CONTEXT_TOKENS} of "
            f"context and {NUM_CONTINUATIONS} times {CONTINUATION_TOKENS} apart from it"
        )
    return items


def num_tokens(items: Iterable[Item]) -> int:
    """How many tokens `choose` predicts."""
    return sum(len(row) - 1 for item in items for row in item.rows)


def choose(
    checkpoint: Checkpoint,
    items: Sequence[Item],
    plan: Sequence[int],
    on_tokens: Callable[[int], object] = lambda _num: None,
) -> Tally:
    """Items solved with the layers at `plan`: the truth has the lowest NLL; a tie is shared."""
    rows = [row for item in items for row in item.rows]
    scores = score(checkpoint, rows, plan, on_tokens)
    nats = np.array([nats_T[-CONTINUATION_TOKENS:].sum() for nats_T, _ in scores])
    nats_I4 = nats.reshape(len(items), NUM_CONTINUATIONS)
    best_I4 = nats_I4 == nats_I4.min(axis=1, keepdims=True)
    return Tally(
        best_I4[:, 0] / best_I4.sum(axis=1),
        np.ones(len(items)),
        np.array([item.document for item in items]),
    )


def _items_of(number: int, document: Document, rng: np.random.Generator) -> Iterator[Item]:
    """A document's items in random order, their continuations cut from it end to end."""
    slots = np.arange(0, len(document.ids) - CONTINUATION_TOKENS + 1, CONTINUATION_TOKENS)
    for truth in rng.permutation(slots[slots >= CONTEXT_TOKENS]):
        context = truth - CONTEXT_TOKENS
        elsewhere = slots[(slots + CONTINUATION_TOKENS <= context) | (slots > truth)]
        if len(elsewhere) >= NUM_CONTINUATIONS - 1:
            others = rng.choice(elsewhere, NUM_CONTINUATIONS - 1, replace=False)
            continuations = [
                document.ids[start : start + CONTINUATION_TOKENS] for start in (truth, *others)
            ]
            yield Item(int(number), document.ids[context:truth], continuations)
