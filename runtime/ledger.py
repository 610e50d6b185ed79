"""Measurements that survive an interrupt: a file of one JSON line each, beside what comes of them.

The first line holds the settings they were made under. Knows nothing of what is measured.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FIRST = "settings"


class LedgerError(ValueError):
    """The file holds measurements that cannot be gone on with."""


class Ledger:
    """Raises LedgerError if the file was begun under other settings."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path, self._settings = path, settings
        self._values: dict[str, Any] = {}
        if path.exists():
            begun_with, self._values = _read(path)
            if self._values:
                self._check(begun_with, settings)
        self._write()

    @property
    def resumed(self) -> int:
        """How many measurements were there already."""
        return len(self._values)

    def recall(self, key: str, measure: Callable[[], Any]) -> Any:  # noqa: ANN401  (JSON)
        """What is kept under `key`; else what `measure` gives (JSON data), from now on kept."""
        if key not in self._values:
            self._values[key] = measure()
            with self._path.open("a") as file:
                file.write(json.dumps({key: self._values[key]}) + "\n")
        return self._values[key]

    def forget(self, prefix: str) -> None:
        """All whose key begins so."""
        self._values = {k: v for k, v in self._values.items() if not k.startswith(prefix)}
        self._write()

    def close(self) -> None:
        """The work is done: nothing is left to go on with."""
        self._path.unlink()

    def _check(self, begun_with: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        for name in sorted({*begun_with, *settings}):
            before, now = begun_with.get(name), settings.get(name)
            if before != now:
                raise LedgerError(
                    f"{self._path}: holds an interrupted run with {name} {before!r}, now {now!r}; "
                    "go on with the same settings, or delete the file to begin anew"
                )

    def _write(self) -> None:
        rows = [{FIRST: self._settings}, *({key: value} for key, value in self._values.items())]
        # Beside and moved: an interrupt here must not lose what was kept.
        beside = self._path.with_name(self._path.name + ".new")
        beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
        beside.replace(self._path)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and measurements; a last line that was cut off does not count."""
    values: dict[str, Any] = {}
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        try:
            values |= json.loads(line)
        except (ValueError, TypeError) as error:
            if number < len(lines) - 1:
                message = f"{path}:{number + 1}: not JSON ({error}); delete the file to begin anew"
                raise LedgerError(message) from error
    settings = values.pop(FIRST, None)
    if not isinstance(settings, dict):
        raise LedgerError(f"{path}: holds no interrupted run; delete it or write elsewhere")
    return settings, values
