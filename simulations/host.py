"""What replicas share: while others run steps, one's own take longer."""


class Host:
    """`contention` is by how much a step takes longer for every other replica that runs one. Counts
    those that are busy now; a step goes by what it finds when it begins.
    """

    def __init__(self, contention: float) -> None:
        self._contention = contention
        self._busy: set[object] = set()
        self.slowdown = 1.0  # of the steps of a replica that is busy

    def enter(self, replica: object) -> None:
        """It runs steps now."""
        self._busy.add(replica)
        self._count()

    def leave(self, replica: object) -> None:
        """It has nothing to run, or is gone."""
        self._busy.discard(replica)
        self._count()

    def _count(self) -> None:
        self.slowdown = 1.0 + self._contention * max(0, len(self._busy) - 1)
