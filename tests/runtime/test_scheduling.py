"""Who goes first in a step, on a tiny model through the engine: priorities, then deadlines."""

from runtime.scheduling import Rank
from tests.runtime.test_engine import prompt, unmodified
from tests.runtime.tiny import Bench

LOW, HIGH = Rank(priority=0), Rank(priority=1)


class Held:
    """Holds the engine between two steps, so that several requests arrive before one."""

    def __init__(self, bench: Bench) -> None:
        self._pause = bench.engine._manager.pause()

    def __enter__(self) -> None:
        self._pause.__enter__()

    def __exit__(self, *error: object) -> None:
        self._pause.__exit__(*error)


def first_tokens(bench: Bench) -> list[str]:
    """Requests in the order of their first tokens."""
    return list(dict.fromkeys(emission.request_id for emission in bench.emissions))


def test_a_higher_priority_goes_first_also_if_it_comes_later() -> None:
    with Bench(max_batch_tokens=16) as bench:
        with Held(bench):
            bench.submit("low", prompt(1, 64), 4, rank=LOW)
            bench.submit("high", prompt(2, 64), 4, rank=HIGH)
        bench.wait_for_end("low", "high")
    assert first_tokens(bench) == ["high", "low"]


def test_within_a_priority_the_earlier_deadline_goes_first() -> None:
    with Bench(max_batch_tokens=16) as bench:
        with Held(bench):
            bench.submit("patient", prompt(1, 64), 4, rank=Rank(0, deadline_s=9.0))
            bench.submit("urgent", prompt(2, 64), 4, rank=Rank(0, deadline_s=2.0))
        bench.wait_for_end("patient", "urgent")
    assert first_tokens(bench) == ["urgent", "patient"]


def test_without_ranks_requests_go_in_the_order_they_came() -> None:
    with Bench(max_batch_tokens=16) as bench:
        with Held(bench):
            for n in range(4):
                bench.submit(str(n), prompt(n, 40), 4)
        bench.wait_for_end(*map(str, range(4)))
    assert first_tokens(bench) == ["0", "1", "2", "3"]


def test_decoding_requests_of_a_lower_priority_pause_while_a_prompt_fills_the_steps() -> None:
    with Bench(max_batch_tokens=16) as bench:
        bench.submit("low", prompt(1, 10), 60, rank=LOW)
        bench.wait_for_tokens("low", 5)
        bench.submit("high", prompt(2, 160), 2, rank=HIGH)
        bench.wait_for_end("low", "high")
    steps = bench.steps
    prompts = [n for n, step in enumerate(steps) if step.work.prefill_tokens == 16]
    assert len(prompts) == 10  # all of the high prompt, and nothing decoded beside it
    assert prompts == list(range(prompts[0], prompts[0] + 10))
    assert bench.tokens("low") == unmodified(prompt(1, 10), 60)


def test_a_decoding_request_of_the_same_priority_does_not_pause() -> None:
    with Bench(max_batch_tokens=16) as bench:
        bench.submit("old", prompt(1, 10), 60, rank=LOW)
        bench.wait_for_tokens("old", 5)
        bench.submit("new", prompt(2, 160), 2, rank=LOW)
        bench.wait_for_end("old", "new")
    assert max(step.work.prefill_tokens for step in bench.steps) == 15


def test_a_cache_without_room_takes_it_from_a_lower_priority_and_no_token_is_lost() -> None:
    """Two of 180 tokens fill six of eight pages; a prompt of 200 needs four."""
    low = {name: prompt(n, 100) for n, name in enumerate(("kept", "pushed"))}
    with Bench(max_batch_tokens=256, cache_tokens=512) as bench:
        for name, ids in low.items():
            bench.submit(name, ids, 80, rank=LOW)
            bench.wait_for_tokens(name, 30)
        bench.submit("high", prompt(9, 200), 5, rank=HIGH)
        bench.wait_for_end("high", *low)
        assert first_tokens(bench) == ["kept", "pushed", "high"]
        ends = [emission.request_id for emission in bench.emissions if emission.finished]
        assert ends[0] == "high"
        assert bench.tokens("high") == unmodified(prompt(9, 200), 5)
        for name, ids in low.items():
            assert bench.tokens(name) == unmodified(ids, 80)
    assert bench.prefilled["high"] == 200
    assert bench.prefilled["kept"] == 100
    assert bench.prefilled["pushed"] > 130  # again, with what it had generated


def test_a_cache_without_room_is_not_taken_from_the_same_priority() -> None:
    with Bench(max_batch_tokens=256, cache_tokens=512) as bench:
        for name in ("a", "b"):
            bench.submit(name, prompt(1, 100), 80, rank=LOW)
            bench.wait_for_tokens(name, 30)
        bench.submit("next", prompt(9, 200), 5, rank=LOW)
        bench.wait_for_end("a", "b", "next")
    assert bench.prefilled == {"a": 100, "b": 100, "next": 200}


def test_a_cache_that_once_ran_out_does_not_keep_everyone_out_when_all_have_been_pushed() -> None:
    """transformers lets nobody enter after a starved request was reset until another one ends; if
    the rest was pushed out as well, none did.
    """
    with Bench() as bench:
        bench.submit("first", prompt(1, 20), 2)
        bench.wait_for_end("first")
        with Held(bench):
            bench.engine._manager.batch_processor.scheduler.block_new_requests = True
            bench.submit("next", prompt(2, 20), 2)
        bench.wait_for_end("next")
        assert bench.tokens("next") == unmodified(prompt(2, 20), 2)
