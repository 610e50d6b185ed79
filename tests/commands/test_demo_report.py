from commands.demo_report import recovery


def test_a_demo_says_when_full_k_was_back_or_that_it_was_not_seen() -> None:
    assert recovery(3.21456) == "3.215 s after the burst"
    assert recovery(None) == "not while it was watched"
