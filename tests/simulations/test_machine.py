"""What a machine takes besides what the profile says: slower parts, and the way to it."""

from math import inf

import pytest

from controller.signals import Correction
from simulations.faults import Slowdown
from simulations.settings import Way
from tests.fakes import slo_policy
from tests.simulations.cluster_fakes import every, fixed, profile_with, run


def test_a_machine_that_is_slower_throughout_takes_as_long_as_slow_steps() -> None:
    requests, noisy = every(0.3, 40, prompt=150, output=20), profile_with(noise=0.1)
    slower = run(requests, fixed(), noisy, replicas=2, actual=Correction(2.0, 2.0, 2.0))
    assert slower == run(requests, fixed(), noisy, replicas=2, faults=(Slowdown(2.0),))
    assert slower != run(requests, fixed(), noisy, replicas=2)


def test_only_the_part_that_differs_takes_another_time() -> None:
    # A prompt of 100 tokens at k' 8: 10 ms, and 80 ms of the experts.
    ((base,), (experts,), (rest,)) = (
        run(every(1.0, 1), actual=actual).records
        for actual in (Correction(base=3.0), Correction(experts=0.5), Correction(rest=9.0))
    )
    assert [base.ttft_s, experts.ttft_s, rest.ttft_s] == pytest.approx([0.11, 0.05, 0.09])


def test_the_controller_goes_by_the_profile_and_gives_way_once_steps_are_slower() -> None:
    # Six a second of 100 tokens take 54 % of an engine at k' 8, 108 % of one that is half as fast.
    requests = every(1 / 6, 180)
    outcome = run(requests, slo_policy(), actual=Correction(2.0, 2.0, 2.0))
    assert outcome.ticks[0].mean_k == 8
    assert min(tick.mean_k for tick in outcome.ticks) < 8
    assert {tick.mean_k for tick in run(requests, slo_policy()).ticks} == {8.0}


def test_the_way_comes_on_top_of_what_the_replica_does() -> None:
    """And nothing that the replica does depends on it."""
    requests = every(0.05, 50, output=3)
    at_once, far = run(requests), run(requests, way=Way(0.02, 0.0))
    for one, other in zip(at_once.records, far.records, strict=True):
        assert one.ttft_s is not None and one.e2e_s is not None
        assert other.ttft_s == pytest.approx(one.ttft_s + 0.02)
        assert other.e2e_s == pytest.approx(one.e2e_s + 0.02)
        assert other.tpot_s == pytest.approx(one.tpot_s)


def test_first_and_last_tokens_have_delays_of_their_own_and_keep_their_order() -> None:
    requests, way = every(0.5, 400, output=2), Way(0.05, 1.0)
    records = run(requests, way=way).records
    delays = [record.ttft_s - 0.09 for record in records if record.ttft_s]
    assert sum(delays) / 400 == pytest.approx(0.05, rel=0.15)
    assert all(record.e2e_s >= record.ttft_s for record in records)
    assert any(record.e2e_s == record.ttft_s for record in records)
    assert run(requests, way=way).records == records
    assert run(requests, way=way, seed=1).records != records


def test_an_answer_of_one_token_is_sent_once() -> None:
    records = run(every(0.2, 20), way=Way(0.05, 1.0)).records
    assert all(record.e2e_s == record.ttft_s for record in records)


@pytest.mark.parametrize(("mean_s", "sigma"), [(0.0, 0.5), (-0.1, 0.5), (0.1, -0.5), (0.1, inf)])
def test_what_is_no_way_is_refused(mean_s: float, sigma: float) -> None:
    with pytest.raises(ValueError, match="expected a time above 0, and 0 or more"):
        Way(mean_s, sigma)
