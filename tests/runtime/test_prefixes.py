"""A prompt's beginning is computed once for a class, and never read by another."""

import pytest

from controller.signals import Plan
from runtime.engine import PAGE_TOKENS
from tests.runtime.test_engine import prompt
from tests.runtime.tiny import Bench

SHARED = prompt(1, 2 * PAGE_TOKENS)
CLASSES = {"interactive": (4, 4), "batch": (1, 1)}


def ran(bench: Bench, name: str, ids: list[int], slo_class: str | None = None) -> list[int]:
    bench.submit(name, ids, 8, slo_class)
    bench.wait_for_end(name)
    return bench.tokens(name)


def test_a_prompt_that_begins_like_an_earlier_one_prefills_only_the_rest() -> None:
    asked = SHARED + prompt(2, 10)
    with Bench(share_prefixes=True) as bench:
        ran(bench, "first", SHARED + prompt(3, 10))
        shared = ran(bench, "second", asked)
    with Bench() as bench:
        alone = ran(bench, "second", asked)
        assert bench.prefilled["second"] == len(asked)
    assert shared == alone
    with Bench(share_prefixes=True) as bench:
        ran(bench, "first", SHARED + prompt(3, 10))
        ran(bench, "second", asked)
        assert bench.prefilled["second"] == len(asked) - len(SHARED)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [("interactive", "batch"), ("batch", "interactive"), (None, "batch"), ("batch", None)],
)
def test_another_class_computes_it_anew(earlier: str | None, later: str | None) -> None:
    asked = SHARED + prompt(2, 10)
    plan = Plan(2, (2, 2), 1.0, class_k=CLASSES)
    with Bench() as bench:
        bench.engine.apply(plan)
        alone = ran(bench, "alone", asked, later)
    with Bench(share_prefixes=True) as bench:
        bench.engine.apply(plan)
        ran(bench, "before", asked, earlier)
        assert ran(bench, "after", asked, later) == alone
        assert bench.prefilled["after"] == len(asked)
        ran(bench, "again", asked, later)
        assert bench.prefilled["again"] == len(asked) - len(SHARED)


def test_a_plan_that_came_between_does_not_keep_a_class_from_sharing() -> None:
    asked = SHARED + prompt(2, 10)
    with Bench(share_prefixes=True) as bench:
        ran(bench, "before", asked)
        bench.engine.apply(Plan(2, (1, 1), 1.0))
        ran(bench, "after", asked)
        assert bench.prefilled["after"] == len(asked) - len(SHARED)


def test_a_request_cancelled_in_its_prefill_leaves_nothing_to_another_class() -> None:
    """Broke: its class was forgotten at once, and its blocks passed for those of no class."""
    asked = SHARED + prompt(2, 10)
    with Bench(share_prefixes=True, max_batch_tokens=2 * PAGE_TOKENS) as bench:
        bench.engine.apply(Plan(2, (2, 2), 1.0, class_k=CLASSES))
        hook = bench.model.register_forward_pre_hook(lambda *_: bench.engine.cancel("gone"))
        bench.submit("gone", asked, 8, "batch")
        ran(bench, "other", prompt(4, 10))  # by then the step that was cancelled has run
        hook.remove()
        ran(bench, "after", asked)
        assert "gone" in bench.prefilled
        assert bench.prefilled["after"] == len(asked)
