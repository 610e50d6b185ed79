"""The journal: one JSON line a tick (what was believed, what was decided, why, and the plan), and
one whenever an SLO policy is adopted. Together they let the decisions be made again, from a file.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from logging import Formatter, LogRecord, makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar
from uuid import uuid4

from pydantic import ConfigDict, TypeAdapter, ValidationError

from controller.config import SloPolicy, parse_policy
from controller.problems import PolicyError
from controller.profiles import Profile
from controller.signals import Budget, Load, Plan

MAX_BYTES = 50_000_000
NUM_OLD_FILES = 3
FORMAT = 1
Read = TypeVar("Read")


class JournalError(ValueError):
    """The file is not a journal, or damaged; the message says where."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """From here on this SLO policy decides, anew: it remembers nothing of what was before.

    `continued`: nothing was adopted, the file begins here because the one before was full.
    """

    slo_policy: SloPolicy
    profile: str  # file it was read from
    profile_digest: str
    code: str  # `code_digest` of what decides
    plan: Plan  # when it was adopted
    edition: int = 1  # counts the policies of one deployment
    applied: bool = False  # by `kprime policy apply`, not by a deployment
    continued: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    load: Load
    budget: Budget
    plan: Plan


@dataclass(frozen=True, slots=True)
class _Header:
    """An adoption as it stands in the file: its policy is validated by `parse_policy`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    format: int
    slo_policy: dict[str, Any]
    profile: str
    profile_digest: str
    code: str
    plan: Plan
    edition: int
    applied: bool
    continued: bool


class Journal(Protocol):
    def write(self, load: Load, budget: Budget, plan: Plan) -> None: ...


class FileJournal:
    """Appends to `path`; old lines move to `path.1`, `path.2`, ... and are dropped in the end.

    Every file begins with the adoption under which its first tick was decided. While a deployment
    takes the place of another two controllers may write to one file: lines name their writer.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_last_line(path)
        self._writer = uuid4().hex[:8]
        self._adoption: Adoption | None = None
        self._file = _Rotating(path, self._first_line)
        self._file.setFormatter(Formatter("%(message)s"))

    def adopt(self, adoption: Adoption) -> None:
        self._emit(self._header_line(adoption))
        self._adoption = adoption

    def write(self, load: Load, budget: Budget, plan: Plan) -> None:
        row = {"load": asdict(load), "budget": asdict(budget), "plan": asdict(plan)}
        self._emit(json.dumps(row | {"writer": self._writer}))
        if self._adoption and plan is not self._adoption.plan:
            self._adoption = replace(self._adoption, plan=plan)

    def close(self) -> None:
        self._file.close()

    def _emit(self, line: str) -> None:
        record: LogRecord = makeLogRecord({"msg": line})
        self._file.emit(record)

    def _first_line(self) -> str | None:
        if self._adoption is None:
            return None
        return self._header_line(replace(self._adoption, continued=True))

    def _header_line(self, adoption: Adoption) -> str:
        fields = {
            "slo_policy": adoption.slo_policy.model_dump(mode="json"),
            "profile": adoption.profile,
            "profile_digest": adoption.profile_digest,
            "code": adoption.code,
            "plan": asdict(adoption.plan),
            "edition": adoption.edition,
            "applied": adoption.applied,
            "continued": adoption.continued,
        }
        return json.dumps({"adopted": {"format": FORMAT, **fields}, "writer": self._writer})


class _Rotating(RotatingFileHandler):
    """Begins each further file with a line of its own."""

    def __init__(self, path: Path, first_line: Callable[[], str | None]) -> None:
        super().__init__(path, maxBytes=MAX_BYTES, backupCount=NUM_OLD_FILES)
        self._first_line = first_line

    def doRollover(self) -> None:
        super().doRollover()
        if (line := self._first_line()) and self.stream:
            self.stream.write(line + self.terminator)


def _end_last_line(path: Path) -> None:
    """A writer that was killed may have left half a line, which must not swallow ours."""
    if path.is_file() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")


def profile_digest(profile: Profile) -> str:
    """The digest that the profile's file ends with."""
    data = profile.model_dump(mode="json")
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def code_digest() -> str:
    """Of all the code that decides: other code may decide otherwise."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for folder in ("controller", "policies"):
        for file in sorted((root / folder).glob("*.py")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def files_of(journal: Path) -> list[Path]:
    """A journal with the older files it was rotated to, oldest first."""
    if not journal.is_file():
        raise JournalError(f"{journal}: no such file; expected a journal of a running controller")
    old = [
        file
        for file in journal.parent.glob(f"{journal.name}.*")
        if file.suffix[1:].isdecimal() and file.stem == journal.name
    ]
    return [*sorted(old, key=lambda file: -int(file.suffix[1:])), journal]


@dataclass(frozen=True, slots=True)
class Entry:
    place: str  # file:line
    writer: str
    what: Adoption | Tick


class JournalReader:
    """The entries of journal files, in order. `notes` says what had to be dropped.

    A line cut off where its writer ended (last in the last file, or before an adoption) is dropped
    with a note. Any other damage raises JournalError naming file and line: what came after it
    could not be told from what would have been decided. Lines before the first adoption of their
    writer are only counted: nothing says which policy decided them.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self.notes: list[str] = []
        self.before_adoption = 0

    def __iter__(self) -> Iterator[Entry]:
        cut_off, writers = "", set()
        for place, line in self._lines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                if cut_off:
                    raise _damaged(cut_off) from None
                cut_off = place
                continue
            writer = row.pop("writer", None) if isinstance(row, dict) else None
            is_adoption = writer is not None and row.keys() == {"adopted"}
            if is_adoption:
                writers.add(writer)
            elif writer not in writers and not cut_off:
                self.before_adoption += 1
                continue
            what = _adoption(row["adopted"], place) if is_adoption else _tick(row, place)
            if cut_off:
                if not isinstance(what, Adoption) or what.continued:
                    raise _damaged(cut_off)
                self._drop(cut_off)
                cut_off = ""
            yield Entry(place, str(writer), what)
        if cut_off:
            self._drop(cut_off)

    def _drop(self, place: str) -> None:
        self.notes.append(f"{place}: cut off when its writer ended; dropped")

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        for file in self._files:
            try:
                with file.open("rb") as lines:
                    for number, line in enumerate(lines, 1):
                        yield f"{file}:{number}", line
            except OSError as error:
                raise JournalError(f"{file}: cannot be read: {error.strerror}") from error


def _damaged(place: str) -> JournalError:
    return JournalError(f"{place}: damaged: not a JSON line, and the journal goes on after it")


def _tick(row: object, place: str) -> Tick:
    return _validated(_TICK, row, place)


def _adoption(data: object, place: str) -> Adoption:
    known = data.get("format") if isinstance(data, dict) else None
    if known != FORMAT:
        raise JournalError(f"{place}: adopted.format: {known!r}; this kprime reads {FORMAT}")
    header = _validated(_HEADER, data, f"{place}: adopted")
    try:
        slo_policy = parse_policy(header.slo_policy)
    except PolicyError as error:
        problems = (f"{place}: slo_policy: {each.text()}" for each in error.problems)
        raise JournalError("\n".join(problems)) from error
    return Adoption(
        slo_policy,
        header.profile,
        header.profile_digest,
        header.code,
        header.plan,
        header.edition,
        header.applied,
        header.continued,
    )


def _validated(adapter: TypeAdapter[Read], data: object, place: str) -> Read:
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "line"
        raise JournalError(
            f"{place}: damaged, or of another kprime: {key}: {first['msg']}"
        ) from error


_TICK = TypeAdapter(Tick)
_HEADER = TypeAdapter(_Header)
