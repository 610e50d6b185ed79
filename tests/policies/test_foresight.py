"""How long a backlog takes beside those that decode, and what a step holds.

A step takes 10 ms and, at k' 8, 0.8 ms a token: 90 ms for a full one of 100 tokens.
"""

import pytest

from controller.signals import Load
from controller.step_time import StepTime
from policies.foresight import drain_s, share_longer, step_s
from tests.fakes import load, profile

FULL = (8, 8, 8, 8)


def drained(of: Load, tokens: int, model: StepTime | None = None) -> float:
    model = model or profile().step_time
    return drain_s(model, FULL, of, 100, tokens, of.running_requests or 0)


def keyed() -> StepTime:
    """With 0.01 ms for a key that a prompt reads, and 0.02 ms for one that who decodes reads."""
    return profile().step_time.model_copy(update={"prefill_key_s": 1e-5, "decode_key_s": 2e-5})


@pytest.mark.parametrize("running", [0, None])
def test_where_nobody_decodes_a_backlog_takes_full_steps(running: int | None) -> None:
    assert drained(load(running_requests=running), 1000) == pytest.approx(10 * 0.09)
    assert drained(load(running_requests=running), 50) == pytest.approx(0.5 * 0.09)  # its share
    assert drained(load(running_requests=running), 0) == 0


def test_those_that_decode_leave_a_backlog_the_rest_of_each_step() -> None:
    assert drained(load(running_requests=50), 1000) == pytest.approx(20 * 0.09)
    assert drained(load(running_requests=75), 1000) == pytest.approx(40 * 0.09)


def test_replicas_share_those_that_decode_and_the_backlog_is_one_replicas() -> None:
    assert drained(load(running_requests=100, replicas=2), 1000) == pytest.approx(20 * 0.09)
    assert drained(load(running_requests=99, replicas=2), 1010) == pytest.approx(20 * 0.09)


def test_those_that_wait_for_it_take_no_room() -> None:
    busy = load(running_requests=60, replicas=2)
    assert drain_s(profile().step_time, FULL, busy, 100, 1000, 40) == pytest.approx(12.5 * 0.09)


@pytest.mark.parametrize("running", [99, 100, 250])
def test_where_they_fill_the_step_a_token_of_the_backlog_comes_in_each(running: int) -> None:
    step_s = 0.01 + 0.0008 * (running + 1)
    assert drained(load(running_requests=running), 10) == pytest.approx(10 * step_s)


def test_prompts_read_half_of_their_keys_and_those_that_decode_their_context() -> None:
    # 80 tokens read 20 keys each, 20 requests 40 + 6: 16 and 18.4 ms beside the 90.
    short = load(running_requests=20, prompt_tokens=40.0, output_tokens=12.0)
    assert drained(short, 800, keyed()) == pytest.approx(10 * (0.09 + 0.016 + 0.0184))


def test_of_unknown_lengths_prompts_are_a_chunk_and_answers_nothing() -> None:
    # 80 tokens read 50 keys each, 20 requests 100: 40 ms and 40.
    unknown = load(running_requests=20, prompt_tokens=None, output_tokens=None)
    assert drained(unknown, 800, keyed()) == pytest.approx(10 * (0.09 + 0.040 + 0.040))


def test_a_step_holds_prompt_tokens_beside_the_running_requests_of_a_replica() -> None:
    model, two = profile().step_time, load(running_requests=20, replicas=2)
    assert step_s(model, FULL, two, 100, 30) == pytest.approx(0.01 + 0.0008 * 40)
    # 30 tokens read 50 keys each, 10 requests 100 + 50.
    assert step_s(keyed(), FULL, two, 100, 30) == pytest.approx(0.042 + 0.015 + 0.030)


def test_nothing_that_waits_takes_no_time() -> None:
    busy = load(running_requests=40)
    assert drain_s(profile().step_time, FULL, busy, 100, 0, 40) == 0.0


def longer(within_s: float, *quantiles: int) -> float:
    """Tokens that none, 50, 75, 90, 95, 98, 99 and 100 % do not exceed; 100 take 90 ms."""
    return share_longer(profile().step_time, FULL, quantiles, 100, within_s)


def test_lengths_between_two_quantiles_are_spread_evenly() -> None:
    quantiles = (20, 100, 200, 300, 400, 500, 600, 1000)
    assert longer(0.9, *quantiles) == 0
    assert longer(0.89, *quantiles) == pytest.approx(0.01 / 36)
    assert longer(0.72, *quantiles) == pytest.approx(0.005)
    assert longer(0.18, *quantiles) == pytest.approx(0.25)
    assert longer(0.054, *quantiles) == pytest.approx(0.75)
    assert longer(0.018, *quantiles) == 1
    assert longer(0.017, *quantiles) == 1


def test_of_prompts_of_one_length_all_take_longer_or_none() -> None:
    assert longer(0.09, *[100] * 8) == 0
    assert longer(0.0899, *[100] * 8) == 1
