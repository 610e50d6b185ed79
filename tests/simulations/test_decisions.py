"""Replay: what a live controller decided is decided again, whatever it saw."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

import policies
from controller.config import SloPolicy
from controller.estimator import Estimator
from controller.journal import (
    Adoption,
    Entry,
    FileJournal,
    JournalReader,
    Tick,
    code_digest,
    files_of,
    profile_digest,
)
from controller.loop import Controller
from controller.profiles import Profile
from controller.signals import Budget, ClassSample, Device, Plan, Sample, Step, Work
from simulations.decisions import Replayed, replay_exactly, replay_instead
from tests.fakes import plan_at, profile, sample, slo_policy

PROFILE = profile()
CHOICES = [
    {"name": name, **({"k": 4} if name == "fixed" else {})} for name in sorted(policies.POLICIES)
]


class Live:
    """A controller with a journal, as the governor holds one."""

    def __init__(self, path: Path) -> None:
        self._journal = FileJournal(path)
        self._estimator = Estimator(PROFILE, stale_s=1.0, forget_s=5.0)
        self._plan = plan_at(PROFILE, 8, epoch=1)
        self.controller: Controller | None = None

    def adopt(self, policy: SloPolicy) -> None:
        plan = self.controller.plan if self.controller else self._plan
        self.controller = policies.controller_of(
            policy, PROFILE, self._estimator, self._journal, plan
        )
        digest = profile_digest(PROFILE)
        self._journal.adopt(Adoption(policy, "profile.json", digest, code_digest(), plan))

    def tick(self, now_s: float, *samples: Sample) -> Plan:
        assert self.controller is not None
        for each in samples:
            self.controller.observe(each, now_s)
        return self.controller.tick(now_s)

    def close(self) -> None:
        self._journal.close()


def profile_of(_adoption: Adoption, _place: str) -> Profile:
    return PROFILE


def replayed(journal: Path) -> Replayed:
    return replay_exactly(JournalReader(files_of(journal)), profile_of)


def busy(n: int) -> Sample:
    waiting = 7000 if n % 40 < 15 else 0
    return sample(
        waiting_tokens=waiting,
        waiting_requests=waiting // 100,
        oldest_wait_s=waiting / 9000,
        arrived_prompts=(90 + n % 7,),
        arrived_output_tokens=10,
        ttfts_s=(0.1 + waiting / 7000,),
        tpots_s=(0.03 + 0.001 * (n % 11),),
    )


def run(path: Path, choices: Sequence[SloPolicy], ticks: int) -> None:
    """A run of so many ticks for each policy."""
    live = Live(path)
    for turn, policy in enumerate(choices):
        live.adopt(policy)
        for n in range(turn * ticks, (turn + 1) * ticks):
            live.tick(0.2 * n, busy(n))
    live.close()


finite = {"allow_nan": False, "allow_infinity": False}
seconds = st.floats(0, 100, **finite)
counts = st.integers(0, 5000)
steps = st.builds(
    Step,
    st.builds(Work, *[st.floats(0, 1e4, **finite)] * 4),
    st.floats(1e-4, 5, **finite),
    st.just((800,) * 4) | st.just(()),
    st.just((16,) * 4),
)
class_samples = st.builds(
    ClassSample,
    waiting_requests=counts,
    waiting_tokens=counts,
    running_requests=counts,
    oldest_wait_s=seconds,
    arrived_prompts=st.lists(counts, max_size=20).map(tuple),
    arrived_output_tokens=counts,
    ttfts_s=st.lists(seconds, max_size=2).map(tuple),
    tpots_s=st.lists(seconds, max_size=2).map(tuple),
)
samples = st.builds(
    Sample,
    replica=st.sampled_from("ab"),
    epoch=st.integers(0, 30),
    classes=st.dictionaries(st.sampled_from(["default", "batch"]), class_samples),
    steps=st.lists(steps, max_size=2).map(tuple),
    device=st.builds(Device, gpu_throttled=st.none() | st.booleans()),
)
slo_policies = st.builds(
    lambda choice, mode, floor, dwell_s: slo_policy(
        policy=choice,
        mode=mode,
        experts={"floor": floor, "ceiling": 8},
        guard={"dwell_s": dwell_s},
        classes={"batch": {"ttft_s": 9.0, "tpot_s": 0.5, "priority": -1}},
    ),
    st.sampled_from(CHOICES),
    st.sampled_from(["act", "act", "act", "dry-run"]),
    st.integers(1, 4),
    st.floats(0.1, 5, **finite),
)
events = st.tuples(st.floats(0, 3, **finite), st.none() | samples, st.none() | slo_policies)


@settings(max_examples=60, deadline=None)
@given(slo_policies, st.lists(events, max_size=25))
def test_any_sequence_of_samples_and_policies_replays_exactly(
    first: SloPolicy, history: list[tuple[float, Sample | None, SloPolicy | None]]
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        live = Live(path)
        live.adopt(first)
        now_s = 0.0
        for gap_s, seen, policy in history:
            now_s += gap_s
            if policy is not None:
                live.adopt(policy)
            live.tick(now_s, *([] if seen is None else [seen]))
        live.close()
        result = replayed(path)
    assert result.shown == []
    assert (result.ticks, result.replayed) == (len(history), len(history))


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice["name"])
def test_a_run_of_every_policy_replays_exactly(tmp_path: Path, choice: dict) -> None:
    run(tmp_path / "journal.jsonl", [slo_policy(policy=choice)], ticks=200)
    result = replayed(tmp_path / "journal.jsonl")
    assert (result.replayed, result.shown, result.adoptions) == (200, [], 1)


def test_a_run_with_hot_changes_and_restarts_replays_exactly(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    turns = [slo_policy(policy=choice) for choice in CHOICES]
    run(path, turns, ticks=30)
    run(path, turns[::-1], ticks=30)  # a new governor: the clock and epochs start anew
    result = replayed(path)
    assert (result.differences, result.adoptions) == (0, 2 * len(CHOICES))


def test_an_epoch_that_samples_set_ahead_is_no_difference(tmp_path: Path) -> None:
    live = Live(tmp_path / "journal.jsonl")
    live.adopt(slo_policy())
    live.tick(0.0, busy(0))
    assert live.tick(0.2, replace(busy(1), epoch=40)).epoch > 40
    live.tick(0.4, busy(2))
    live.close()
    result = replayed(tmp_path / "journal.jsonl")
    assert (result.differences, result.epoch_jumps) == (0, 1)


def altered(path: Path, number: int, **changes: object) -> list[Entry]:
    """The entries of a journal, one of whose ticks says something else."""
    entries = list(JournalReader([path]))
    tick = entries[number].what
    assert isinstance(tick, Tick)
    entries[number] = replace(entries[number], what=replace(tick, **changes))
    return entries


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": Budget(8.0, "because")},
        {"budget": Budget(3.0, "fixed at 4")},
        {"plan": Plan(2, (8, 8, 8, 8), 1.0)},
        {"plan": Plan(1, (4, 4, 4, 4), 0.9)},
    ],
)
def test_one_altered_decision_is_one_difference_with_both_reasons(
    tmp_path: Path, changes: dict
) -> None:
    path = tmp_path / "journal.jsonl"
    run(path, [slo_policy(policy={"name": "fixed", "k": 4})], ticks=5)
    result = replay_exactly(altered(path, 5, **changes), profile_of)
    (difference,) = result.shown
    assert (result.replayed, result.differences) == (5, 1)
    assert difference.place == f"{path}:6"
    assert difference.budget == changes.get("budget", Budget(4, "fixed at 4"))
    assert difference.budget_again == Budget(4, "fixed at 4")
    assert difference.plan_again.k == (4, 4, 4, 4)


def test_only_the_first_few_differences_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    run(path, [slo_policy(policy={"name": "fixed", "k": 4})], ticks=9)
    entries = [
        entry
        if isinstance(entry.what, Adoption)
        else replace(entry, what=replace(entry.what, budget=Budget(1.0, "no")))
        for entry in JournalReader([path])
    ]
    result = replay_exactly(entries, profile_of)
    assert (result.differences, len(result.shown)) == (9, 5)


def test_the_memory_of_a_policy_goes_over_from_file_to_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.journal.MAX_BYTES", 110_000)
    path = tmp_path / "journal.jsonl"
    run(path, [slo_policy()], ticks=300)
    assert len(files_of(path)) > 1
    result = replayed(path)
    assert (result.replayed, result.differences, result.without_memory) == (300, 0, 0)


def test_where_the_first_file_is_gone_what_the_policy_may_remember_is_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.journal.MAX_BYTES", 200_000)
    path = tmp_path / "journal.jsonl"
    run(path, [slo_policy()], ticks=900)  # 180 s, of which the last 600 kB are left
    result = replayed(path)
    assert result.without_memory == approx(300, abs=1)  # a minute
    assert result.replayed == result.ticks - result.without_memory > 0
    assert (result.differences, result.adoptions) == (0, 0)


def fixed(k: int, **changes: object) -> SloPolicy:
    return slo_policy(policy={"name": "fixed", "k": k}, **changes)


def test_another_policy_on_the_same_loads_shares_time_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    run(path, [fixed(8), fixed(2)], ticks=10)
    was, would = replay_instead(JournalReader([path]), fixed(4), profile_of)
    assert was.seconds == approx({8.0: 2.0, 2.0: 2.0})
    assert (was.mean_k, was.quality, was.changes) == (approx(5.0), approx(0.9), 1)
    assert would.seconds == approx({4.0: 4.0})
    assert (would.mean_k, would.quality, would.changes) == (approx(4.0), approx(0.9), 0)


def test_the_policy_itself_on_its_own_loads_is_what_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    run(path, [slo_policy()], ticks=200)
    was, would = replay_instead(JournalReader([path]), slo_policy(), profile_of)
    assert len(was.seconds) > 1
    assert was == would


def test_another_policy_acts_also_where_its_file_asks_for_a_dry_run(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    run(path, [fixed(8)], ticks=3)
    _, would = replay_instead(JournalReader([path]), fixed(4, mode="dry-run"), profile_of)
    assert set(would.seconds) == {4.0}


def test_a_pause_of_the_controller_is_no_plans_time(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    live = Live(path)
    live.adopt(fixed(8))
    for now_s in (0.0, 0.2, 1000.0, 1000.2):
        live.tick(now_s, busy(0))
    live.close()
    was, _ = replay_instead(JournalReader([path]), fixed(8), profile_of)
    assert was.total_s == approx(0.2 + 0.6 + 0.2 + 0.2)


def test_two_controllers_that_write_to_one_file_are_kept_apart(tmp_path: Path) -> None:
    """As while one deployment takes the place of another."""
    path = tmp_path / "journal.jsonl"
    old, new = Live(path), Live(path)
    old.adopt(slo_policy())
    new.adopt(fixed(4))
    for n in range(20):
        old.tick(0.2 * n, busy(n))
        new.tick(0.2 * n + 0.1, busy(n))
    old.close()
    new.close()
    result = replayed(path)
    assert (result.replayed, result.shown, result.adoptions) == (40, [], 2)
    was, _ = replay_instead(JournalReader([path]), fixed(8), profile_of)
    assert was.total_s == approx(8.0)


def test_another_controller_starts_the_other_policy_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    run(path, [fixed(8)], ticks=5)
    run(path, [fixed(8)], ticks=5)
    was, would = replay_instead(JournalReader([path]), slo_policy(), profile_of)
    assert (was.total_s, would.total_s) == (approx(2.0), approx(2.0))
    assert (was.changes, would.changes) == (0, 2)


def test_a_journal_without_ticks_has_no_course() -> None:
    adopted = Adoption(fixed(8), "profile.json", "", "", plan_at(PROFILE, 8, 1))
    was, _ = replay_instead([Entry("j:1", "w", adopted)], fixed(8), profile_of)
    assert (was.total_s, was.mean_k, was.quality, was.share(8.0)) == (0, 0, 0, 0)
