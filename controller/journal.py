"""One JSON line a tick: what was believed, what was decided, why, and the plan."""

import json
from dataclasses import asdict
from logging import Formatter, LogRecord, makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Protocol

from controller.signals import Budget, Load, Plan

MAX_BYTES = 50_000_000
NUM_OLD_FILES = 3


class Journal(Protocol):
    def write(self, load: Load, budget: Budget, plan: Plan) -> None: ...


class FileJournal:
    """Appends to `path`; old lines move to `path.1`, `path.2`, ... and are dropped in the end."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=NUM_OLD_FILES)
        self._file.setFormatter(Formatter("%(message)s"))

    def write(self, load: Load, budget: Budget, plan: Plan) -> None:
        row = {"load": asdict(load), "budget": asdict(budget), "plan": asdict(plan)}
        record: LogRecord = makeLogRecord({"msg": json.dumps(row)})
        self._file.emit(record)

    def close(self) -> None:
        self._file.close()
