"""A lease lapses when nobody renews it."""

from controller.lease import Lease


def test_a_lease_lapses_after_its_term() -> None:
    lease = Lease(5.0, now_s=100.0)
    assert not lease.lapsed(100.0)
    assert not lease.lapsed(104.9)
    assert lease.lapsed(105.0)
    assert lease.lapsed(200.0)


def test_every_renewal_starts_a_new_term() -> None:
    lease = Lease(5.0, now_s=100.0)
    lease.renew(5.0, now_s=104.0)
    assert not lease.lapsed(108.9)
    assert lease.lapsed(109.0)


def test_a_lapsed_lease_comes_back_when_renewed() -> None:
    lease = Lease(5.0, now_s=100.0)
    assert lease.lapsed(120.0)
    lease.renew(5.0, now_s=121.0)
    assert not lease.lapsed(125.9)


def test_a_renewal_may_shorten_the_term() -> None:
    lease = Lease(5.0, now_s=100.0)
    lease.renew(1.0, now_s=100.0)
    assert lease.lapsed(101.0)
