"""How long a replica may trust its plan without hearing from the governor. Time is an argument."""


class Lease:
    """Renewed by every exchange; lapses after `lease_s` of silence."""

    def __init__(self, lease_s: float, now_s: float) -> None:
        self.renew(lease_s, now_s)

    def renew(self, lease_s: float, now_s: float) -> None:
        self._until_s = now_s + lease_s

    def lapsed(self, now_s: float) -> bool:
        return now_s >= self._until_s
