"""What a step takes, and who holds the cache: by example, and for any requests."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.signals import Plan
from simulations.batch import Batch
from simulations.batching import Batching
from simulations.jobs import PAGE_TOKENS, Job
from tests.fakes import plan_at, profile

FULL, CHEAP = plan_at(profile(), 8, 1), plan_at(profile(), 2, 2)


def job(
    index: int,
    prompt: int = 10,
    output: int = 3,
    *,
    priority: int = 0,
    deadline_s: float | None = None,
    slo_class: str = "default",
) -> Job:
    due_s = float(index) if deadline_s is None else deadline_s
    return Job(index, slo_class, priority, due_s, prompt, output, prompt)


def batching(*jobs: Job, tokens: int = 100, pages: int = 1000) -> Batching:
    inside = Batching(max_batch_tokens=tokens, cache_tokens=pages * PAGE_TOKENS)
    for each in jobs:
        inside.submit(each)
    return inside


def step(inside: Batching, plan: Plan = FULL) -> Batch:
    """Runs one step and tells what it took."""
    batch = inside.compose(plan)
    assert batch is not None
    inside.complete(batch, plan)
    return batch


def chunks(batch: Batch) -> list[tuple[int, int]]:
    """Of prompts: request and tokens."""
    return [(each.index, tokens) for each, tokens in batch.chunks]


def test_prompts_go_by_their_deadline_and_the_last_takes_what_is_left() -> None:
    inside = batching(job(0, 60, deadline_s=2.0), job(1, 70, deadline_s=1.0))
    assert chunks(step(inside)) == [(1, 70), (0, 30)]
    assert chunks(step(inside)) == [(0, 30)]


def test_requests_that_decode_go_before_prompts() -> None:
    inside = batching(job(0, 10, output=9))
    step(inside)
    inside.submit(job(1, 200))
    batch = step(inside)
    assert (batch.decode_tokens, chunks(batch)) == (1, [(1, 99)])


def test_the_step_that_ends_a_prompt_makes_the_first_token() -> None:
    one = job(0, 150, output=2)
    inside = batching(one)
    made = [inside.complete(inside.compose(FULL) or Batch(), FULL) for _ in range(3)]
    assert [len(each.first) for each in made] == [0, 1, 0]
    assert [len(each.done) for each in made] == [0, 0, 1]
    assert one.generated == 2
    assert inside.compose(FULL) is None


def test_keys_are_counted_as_they_are_read() -> None:
    inside = batching(job(0, 150, output=3))
    first, second, third, fourth = (step(inside) for _ in range(4))
    assert first.prefill_keys == sum(range(1, 101))
    assert second.prefill_keys == sum(range(101, 151))
    assert (third.decode_keys, fourth.decode_keys) == (151, 152)


def test_a_higher_priority_goes_first_and_lower_ones_pause_meanwhile() -> None:
    low = job(0, 10, output=5)
    inside = batching(low)
    step(inside)
    inside.submit(job(1, 150, priority=1))
    batch = step(inside)
    assert (batch.decode_tokens, chunks(batch)) == (0, [(1, 100)])
    batch = step(inside)
    assert (batch.decode_tokens, chunks(batch)) == (1, [(1, 50)])


def test_where_a_step_has_room_for_some_the_latest_deadlines_pause() -> None:
    three = [job(0, 1, 4, deadline_s=3.0), job(1, 1, 4, deadline_s=1.0), job(2, 1, 4)]
    inside = batching(*three, tokens=2)
    while (batch := inside.compose(FULL)) is not None:
        inside.complete(batch, FULL)
        inside.settle(FULL)
        assert batch.tokens <= 2
        # Of those that decode together the earlier deadlines are not behind.
        assert three[1].generated >= three[2].generated >= three[0].generated
    assert [each.generated for each in three] == [4, 4, 4]


def test_every_token_counts_with_the_plan_it_was_made_under() -> None:
    one = job(0, 10, output=5)
    inside = batching(one)
    step(inside, FULL)
    step(inside, FULL)
    inside.settle(FULL)
    for _ in range(3):
        step(inside, CHEAP)
    assert one.quality_sum == pytest.approx(2 * 1.0 + 3 * 0.8)
    assert one.mean_k_sum == pytest.approx(2 * 8 + 3 * 2)


def test_a_class_with_a_k_of_its_own_counts_with_its_quality() -> None:
    mixed = Plan(1, (8, 8), 1.0, class_k={"batch": (2, 2)}, class_quality={"batch": 0.8})
    gold, batch = job(0, slo_class="gold"), job(1, slo_class="batch")
    inside = batching(gold, batch)
    for tokens in (10, 1, 1):
        both = inside.compose(mixed)
        assert both
        prompts, answers = both.tokens_by_class
        assert prompts == ({"gold": 9, "batch": 9} if tokens == 10 else {})
        assert answers == {"gold": 1, "batch": 1}
        inside.complete(both, mixed)
    assert (gold.quality_sum, batch.quality_sum) == pytest.approx((3.0, 2.4))
    assert (gold.mean_k_sum, batch.mean_k_sum) == (24.0, 6.0)


def test_nobody_enters_where_less_than_the_margin_is_free() -> None:
    # 9 of 10 pages are taken: less than 15 % are free.
    inside = batching(job(0, 9 * PAGE_TOKENS - 9, output=9), tokens=1000, pages=10)
    step(inside)
    inside.submit(job(1, 10))
    assert chunks(step(inside)) == []


def test_a_request_that_is_short_of_cache_begins_anew_with_what_it_had_generated() -> None:
    # Each fills two of three pages in the end; one page is free when both need their second.
    early, late = job(0, 63, output=30), job(1, 63, output=30)
    inside = batching(early, late, pages=3)
    prefilled: Counter[int] = Counter()
    while (batch := inside.compose(FULL)) is not None:
        prefilled.update(dict(chunks(batch)))
        inside.complete(batch, FULL)
    assert (early.generated, late.generated) == (30, 30)
    # The late one had its first two tokens when its page was full, and read them again.
    assert prefilled == {0: 63, 1: 63 + 65}
    assert inside.free_pages == 3


def test_a_lower_priority_gives_its_cache_to_a_higher_one() -> None:
    low = job(0, 8 * PAGE_TOKENS, output=50)
    inside = batching(low, tokens=1000, pages=10)
    step(inside)
    inside.submit(job(1, 4 * PAGE_TOKENS - 10, output=2, priority=1))
    assert chunks(step(inside))[0] == (1, 4 * PAGE_TOKENS - 10)
    assert low.cached == 0 or low.prefill_tokens == 8 * PAGE_TOKENS + 1


def test_steps_that_are_alike_need_not_be_composed_one_by_one() -> None:
    # Pages turn at different times, and the first of three ends after 150 tokens.
    shapes = [(60, 150), (100, 200), (128, 300)]
    one_by_one, at_once = (
        batching(*(job(n, *shape) for n, shape in enumerate(shapes)), tokens=1000) for _ in range(2)
    )
    step(one_by_one)
    step(at_once)
    num_steps = 0
    while steady := at_once.steady():
        following = at_once.advance(steady, steady.num_steps)
        for _ in range(steady.num_steps):
            step(one_by_one)
        composed = one_by_one.compose(FULL)
        assert composed and composed.work == following.work
        assert one_by_one.free_pages == at_once.free_pages
        for inside, batch in ((one_by_one, composed), (at_once, following)):
            inside.complete(batch, FULL)
        num_steps += steady.num_steps + 1
    assert num_steps == 299
    assert one_by_one.free_pages == at_once.free_pages == 1000


def test_who_is_cancelled_leaves_no_trace_in_the_cache() -> None:
    waits, decodes = job(0, 150), job(1, 10, priority=1)
    inside = batching(waits, decodes)
    step(inside)
    for each in (waits, decodes):
        inside.cancel(each, FULL)
    assert inside.free_pages == 1000
    assert inside.compose(FULL) is None


def taken_by(batch: Batch) -> dict[Job, int]:
    """Tokens by request."""
    decoding = {
        each: 1 for cohort, paused in batch.cohorts for each in cohort if each not in paused
    }
    assert sum(decoding.values()) == batch.decode_tokens
    return decoding | dict(batch.chunks)


@dataclass
class Watched:
    """Runs everything to its end and holds what has to be true of every step."""

    jobs: list[Job]
    inside: Batching
    max_tokens: int
    num_pages: int
    read: Counter[int] = field(default_factory=Counter)
    steps: list[tuple[dict[Job, int], dict[Job, int]]] = field(default_factory=list)
    first: list[Job] = field(default_factory=list)

    def run(self) -> None:
        done: set[Job] = set()
        while len(done) < len(self.jobs):
            asked = {each: max(1, each.to_prefill) for each in self.jobs if each not in done}
            batch = self.inside.compose(FULL)
            assert batch is not None, "it idles although there is work"
            assert 0 < batch.tokens <= self.max_tokens
            assert 0 <= self.inside.free_pages <= self.num_pages
            self.steps.append((asked, taken_by(batch)))
            made = self.inside.complete(batch, FULL)
            self.inside.settle(FULL)
            for each, tokens in batch.chunks:
                self.read[each.index] += tokens
            taken = sum(each.pages for each in self.jobs if each not in done)
            assert taken + self.inside.free_pages == self.num_pages
            assert not done & set(made.done), "no request ends twice"
            done |= set(made.done)
            self.first += made.first
        assert self.inside.compose(FULL) is None
        assert self.inside.free_pages == self.num_pages


jobs = st.lists(
    st.tuples(st.integers(1, 300), st.integers(1, 40), st.integers(0, 2)), min_size=1, max_size=12
)


def watched(shapes: list[tuple[int, int, int]], tokens: int, pages: int) -> Watched:
    everyone = [job(n, prompt, output, priority=p) for n, (prompt, output, p) in enumerate(shapes)]
    run = Watched(everyone, batching(*everyone, tokens=tokens, pages=pages), tokens, pages)
    run.run()
    return run


@settings(deadline=None, max_examples=150)
@given(jobs, st.integers(1, 200), st.integers(6, 30))
def test_no_token_is_lost_or_made_twice_however_short_the_cache(
    shapes: list[tuple[int, int, int]], tokens: int, pages: int
) -> None:
    run = watched(shapes, tokens, pages)
    for each, (prompt, output, _) in zip(run.jobs, shapes, strict=True):
        assert each.generated == output
        assert each.quality_sum == pytest.approx(output)
        assert run.read[each.index] >= prompt
    assert sorted(each.index for each in run.first) == [each.index for each in run.jobs]


@settings(deadline=None, max_examples=100)
@given(jobs, st.integers(1, 200))
def test_with_cache_enough_no_prompt_is_read_twice_and_a_priority_goes_by_its_deadlines(
    shapes: list[tuple[int, int, int]], tokens: int
) -> None:
    run = watched(shapes, tokens, pages=1000)
    for each, (prompt, output, _) in zip(run.jobs, shapes, strict=True):
        assert run.read[each.index] == prompt
        assert each.cached == prompt + output - 1
    for priority in range(3):
        order = [each.index for each in run.first if each.priority == priority]
        assert order == sorted(order)


@settings(deadline=None, max_examples=100)
@given(jobs, st.integers(1, 200))
def test_a_step_is_what_asking_one_request_after_the_other_gives(
    shapes: list[tuple[int, int, int]], tokens: int
) -> None:
    run = watched(shapes, tokens, pages=1000)
    decoding: set[Job] = set()
    for asked, taken in run.steps:
        room, expected = tokens, dict[Job, int]()
        # The highest priority first, in it those who decode, then by deadline.
        for each in sorted(asked, key=lambda j: (-j.priority, j not in decoding, j.deadline_s)):
            if given_ := min(asked[each], room):
                expected[each] = given_
                room -= given_
        assert taken == expected
        decoding |= {each for each, given_ in taken.items() if given_ == asked[each]}
