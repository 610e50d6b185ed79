"""What has been measured is not measured again, and nothing half-written passes for a result."""

from pathlib import Path

import pytest

from runtime.ledger import Ledger, LedgerError

SETTINGS = {"k": [1, 2], "threads": 1}


def never() -> int:
    raise AssertionError("measured again")


def begun(path: Path) -> Ledger:
    ledger = Ledger(path, SETTINGS)
    assert ledger.recall("quality 1", lambda: [0.25]) == [0.25]
    assert ledger.recall("steps 0", lambda: 7) == 7
    return ledger


def test_what_was_measured_is_remembered_in_the_run_and_in_the_next(tmp_path: Path) -> None:
    path = tmp_path / "profile.partial"
    ledger = begun(path)
    assert ledger.recall("quality 1", never) == [0.25]
    again = Ledger(path, SETTINGS)
    assert again.resumed == 2
    assert again.recall("quality 1", never) == [0.25]


def test_what_fails_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "profile.partial"
    with pytest.raises(AssertionError):
        Ledger(path, SETTINGS).recall("quality 1", never)
    assert Ledger(path, SETTINGS).recall("quality 1", lambda: 3) == 3


def test_a_line_cut_off_by_the_interrupt_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "profile.partial"
    begun(path)
    path.write_text(path.read_text()[:-3])
    again = Ledger(path, SETTINGS)
    assert again.resumed == 1
    assert again.recall("quality 1", never) == [0.25]
    assert again.recall("steps 0", lambda: 8) == 8
    assert Ledger(path, SETTINGS).recall("steps 0", never) == 8


def test_other_settings_are_refused_and_named_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "profile.partial"
    begun(path)
    with pytest.raises(LedgerError, match=r"profile.partial: .* threads 1, now 2; .*delete"):
        Ledger(path, SETTINGS | {"threads": 2})
    assert Ledger(path, SETTINGS).resumed == 2


def test_where_nothing_was_measured_yet_other_settings_may_begin(tmp_path: Path) -> None:
    Ledger(tmp_path / "profile.partial", SETTINGS)
    assert Ledger(tmp_path / "profile.partial", {"threads": 2}).resumed == 0


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("", "holds no interrupted run"), ("7\n{}\n", ":1: not JSON"), ("{\n{}\n", ":1: not JSON")],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "profile.partial"
    path.write_text(content)
    with pytest.raises(LedgerError, match=complaint):
        Ledger(path, SETTINGS)
    assert path.read_text() == content


def test_what_is_forgotten_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "profile.partial"
    begun(path).forget("steps")
    again = Ledger(path, SETTINGS)
    assert again.recall("quality 1", never) == [0.25]
    assert again.recall("steps 0", lambda: 9) == 9


def test_when_the_work_is_done_the_file_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "profile.partial"
    begun(path).close()
    assert not path.exists()
    assert list(tmp_path.iterdir()) == []
