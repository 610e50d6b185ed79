"""Serve does as the governor wishes, and nothing on its own."""

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import RayActorError

from runtime import replica, scaling
from runtime.scaling import WISH, replicas_wished


def context(**pushed: list[tuple[float, float]]) -> Any:  # noqa: ANN401
    """What Serve hands over, two meant to run; by replica, the wishes and when each was heard."""
    series = {
        replica: [SimpleNamespace(timestamp=at_s, value=wish) for at_s, wish in points]
        for replica, points in pushed.items()
    }
    return SimpleNamespace(target_num_replicas=2, raw_metrics={WISH: series} if series else {})


def test_the_latest_wish_of_any_replica_counts() -> None:
    assert replicas_wished(context(a=[(1.0, 2.0), (3.0, 4.0)], b=[(2.0, 3.0)])) == (4, {})
    assert replicas_wished(context(a=[(1.0, 2.0)], b=[(2.0, 3.0)])) == (3, {})


def test_without_a_wish_as_many_are_meant_to_run_as_before() -> None:
    assert replicas_wished(context()) == (2, {})
    assert replicas_wished(context(a=[])) == (2, {})


def test_it_is_an_integer_as_serve_bounds_it() -> None:
    number, _ = replicas_wished(context(a=[(1.0, 3.0)]))
    assert type(number) is int


def test_it_runs_where_there_is_no_kprime(tmp_path: Path) -> None:
    """Serve pickles it by value into its controller, which may have been started elsewhere."""
    cloudpickle.register_pickle_by_value(scaling)
    try:
        (tmp_path / "policy").write_bytes(cloudpickle.dumps(replicas_wished))
    finally:
        cloudpickle.unregister_pickle_by_value(scaling)
    program = """if True:
        import sys, types
        from ray import cloudpickle
        sys.path = [path for path in sys.path if path]
        policy = cloudpickle.loads(open("policy", "rb").read())
        assert "runtime" not in sys.modules
        print(policy(types.SimpleNamespace(target_num_replicas=7, raw_metrics={})))
    """
    ended = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout.strip() == "(7, {})"


class ToldBy:
    """A governor's handle, as far as it is asked for the number."""

    def __init__(self, answer: int | Exception | None) -> None:
        self._answer = answer
        self.replicas_wished = self

    async def remote(self) -> int | None:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.mark.parametrize(
    ("answer", "told"), [(2, {WISH: 2}), (None, {}), (RayActorError(), {}), (ValueError(), {})]
)
def test_a_replica_tells_serve_what_the_governor_wishes_and_nothing_of_a_silent_one(
    monkeypatch: pytest.MonkeyPatch, answer: int | Exception | None, told: dict[str, int]
) -> None:
    monkeypatch.setattr(replica, "_governor", lambda: ToldBy(answer))
    # Not of a replica, which would load a model to begin with.
    asked = replica.Replica.record_autoscaling_stats(SimpleNamespace())
    assert asyncio.run(asked) == told
