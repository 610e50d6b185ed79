"""Plans of each way of finding what a layer loses, against uniform ones."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import allocation
from benchmarks.allocation import compare, keeping
from runtime import evaluate
from runtime.checkpoint import Checkpoint
from runtime.ways import WAYS, sensitivities
from tests.runtime.test_sensitivity import tiny, windows

KS = [1, 2, 4]
FLAT = {1: 0.0, 2: 0.0, 4: 0.0}
STEEP = {1: 3.0, 2: 1.0, 4: 0.0}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The plans that were evaluated."""
    plans: list[tuple[int, ...]] = []

    def recording(*args):  # noqa: ANN002, ANN202
        plans.append(tuple(args[2]))
        return evaluate.evaluate(*args)

    monkeypatch.setattr(allocation, "evaluate", recording)
    return plans


def test_no_plan_is_run_twice_on_the_same_windows(ran: list[tuple[int, ...]]) -> None:
    loaded, text = tiny(), windows(3)
    run = keeping(loaded, text)
    assert run(loaded, text, [2, 4]) is run(loaded, text, (2, 4))
    losses = sensitivities(loaded, text, KS, run)
    assert tuple(losses) == WAYS
    assert sorted(ran) == [(1, 1), (1, 4), (2, 1), (2, 4), (4, 1), (4, 2), (4, 4)]


def test_experts_go_where_a_way_says_they_are_needed() -> None:
    loaded, text = tiny(), windows(8)
    rows = compare(loaded, text, {"first": [STEEP, FLAT], "last": [FLAT, STEEP]}, KS)
    plans = {k: {way: chosen.plan for way, chosen in row.chosen.items()} for k, row in rows.items()}
    assert plans == {
        1: {"first": (1, 1), "last": (1, 1)},
        2: {"first": (2, 1), "last": (1, 2)},
        4: {"first": (4, 1), "last": (1, 4)},
    }
    assert rows[1].chosen["first"].over_uniform == (0, 0, 0)
    run = keeping(loaded, text)
    nll = {plan: run(loaded, text, plan).nll.mean for plan in ((4, 1), (4, 4))}
    over = rows[4].chosen["first"].over_uniform
    assert over.mean == pytest.approx(nll[4, 1] - nll[4, 4])
    assert rows[4].uniform.mean == nll[4, 4]


def test_everything_is_printed_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "text", tmp_path / "out.json"
    text.write_text("")

    def load(_folder: Path) -> Checkpoint:
        return tiny()

    monkeypatch.setattr(allocation, "load_checkpoint", load)
    monkeypatch.setattr(allocation, "read_documents", lambda *_: [])
    monkeypatch.setattr(allocation, "cut_windows", lambda *_: windows(9))
    options = ["--checkpoint", "tiny", "--text", str(text), "--k", "1,2", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["allocation", *options])
    allocation.main()
    figures = json.loads(out.read_text())
    assert figures["plans"].keys() == {"1", "2", "4"}
    assert figures["plans"]["2"].keys() == {"uniform", *WAYS}
    assert [each["budget"] for each in figures["search"]] == [2, 4]
    assert "data-free" in capsys.readouterr().out
