"""JSON lines -> documents: the prose corpus and a user's own texts or chats alike.

A line is {"text": ...} or {"messages": [{"role": ..., "content": ...}, ...]}, with an optional
"name", which alone decides the split.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from training.corpus import Document

Render = Callable[[list[dict[str, str]]], str]


def plain_chat(messages: list[dict[str, str]]) -> str:
    """A chat as text, for tokenizers without a chat template."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def read_jsonl(path: Path, render: Render = plain_chat) -> list[Document]:
    """The documents of a file. Raises ValueError naming the line that is not one."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not at U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}; expected JSON lines in UTF-8") from error
    documents = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = row["text"] if "text" in row else render(row["messages"])
            documents.append(Document(row.get("name", f"{path.stem}/{number:06}"), str(text)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{path}:{number}: expected {{"text": ...}} or {{"messages": [{{"role": ..., '
                f'"content": ...}}]}}: {error!r}'
            ) from error
    return documents


def write_jsonl(documents: Iterable[Document], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            row = {"name": document.name, "text": document.text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
