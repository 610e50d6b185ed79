"""What simulations may not import of the live system, and have a copy of."""

from runtime import engine, heartbeat
from simulations import heartbeat as simulated_heartbeat
from simulations import jobs


def test_pages_and_retries_are_those_of_the_live_system() -> None:
    assert jobs.PAGE_TOKENS == engine.PAGE_TOKENS
    assert simulated_heartbeat.RETRY_S == heartbeat.RETRY_S
