"""Reads the faults that a command names: `NAME:KEY=VALUE,KEY=VALUE`, times in seconds.

- `slow:factor=1.3` makes steps take so many times as long, `from` one time `until` another if
  wanted, of one `replica` or of all.
- `silent:from=10,until=20` lets nothing pass between the governor and a `replica`, or any.
- `lost:at=30,replica=1` kills one, which is started anew.

Anything wrong is a ValueError that says what is accepted.
"""

from math import inf

from simulations.faults import Fault, ReplicaLost, Silence, Slowdown
from simulations.synthetic import Values, split_keys

# By name: the keys that are needed, and those that may be left out.
KEYS = {
    "slow": (("factor",), ("from", "until", "replica")),
    "silent": (("from", "until"), ("replica",)),
    "lost": (("at", "replica"), ()),
}
ACCEPTED = (
    "expected slow:factor=1.3, silent:from=10,until=20 or lost:at=30,replica=1; "
    "slow may have from= and until=, slow and silent replica="
)


def parse_fault(text: str) -> Fault:
    try:
        return _fault(text)
    except ValueError as error:
        raise ValueError(f"{text}: {error}; {ACCEPTED}") from None


def _fault(text: str) -> Fault:
    name, _, rest = (part.strip() for part in text.partition(":"))
    if name not in KEYS:
        raise ValueError(f"{name!r} is no fault")
    needed, optional = KEYS[name]
    texts = split_keys(rest)
    for key in texts:
        if key not in (*needed, *optional):
            raise ValueError(f"no key {key!r} here")
    for key in needed:
        if key not in texts:
            raise ValueError(f"{key!r} is missing")
    values = Values(texts)
    replica = values.whole("replica", 0, 0) if "replica" in texts else None
    from_s = values.number("from", 0.0)
    until_s = values.number("until") if "until" in texts else inf
    if until_s <= from_s:
        raise ValueError(f"until={until_s:g} is not after from={from_s:g}")
    if name == "slow":
        return Slowdown(values.number("factor"), from_s, until_s, replica)
    if name == "silent":
        return Silence(from_s, until_s, replica)
    assert replica is not None
    at_s = values.number("at")
    if at_s < 0:
        raise ValueError(f"at={at_s:g} is before the start")
    return ReplicaLost(at_s, replica)
