"""JSON lines become documents, and a line that is none is named."""

import json
from pathlib import Path

import pytest

from training.corpus import Document
from training.data import read_jsonl, write_jsonl

CHAT = [{"role": "user", "content": "Thar?"}, {"role": "assistant", "content": "She blows."}]


def written(folder: Path, *lines: str) -> Path:
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "texts.jsonl"


def test_documents_survive_their_file(tmp_path: Path) -> None:
    documents = [Document("moby/1", "Call me\nIshmael — \u2028 thé"), Document("emma/2", "")]
    write_jsonl(documents, tmp_path / "prose.jsonl")
    assert read_jsonl(tmp_path / "prose.jsonl") == documents


def test_a_text_without_a_name_is_named_by_its_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path, '{"text": "one"}', "", '{"text": "three"}')
    assert read_jsonl(path) == [Document("texts/000001", "one"), Document("texts/000003", "three")]


def test_a_chat_is_rendered_as_its_model_wants_it(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps({"messages": CHAT}))
    assert read_jsonl(path)[0].text == "user: Thar?\nassistant: She blows."
    assert read_jsonl(path, lambda messages: f"<{len(messages)}>")[0].text == "<2>"


@pytest.mark.parametrize(
    "line", ["call me", "[]", "3", "{}", '{"prompt": "x"}', '{"messages": [{"role": "user"}]}']
)
def test_a_line_that_is_no_document_is_named_with_what_is_expected(
    tmp_path: Path, line: str
) -> None:
    path = written(tmp_path, '{"text": "fine"}', line)
    with pytest.raises(ValueError, match=r'texts.jsonl:2: expected \{"text": ...\} or'):
        read_jsonl(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.jsonl: .*expected JSON lines in UTF-8"):
        read_jsonl(tmp_path / "none.jsonl")


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=r"texts.jsonl: .*expected JSON lines in UTF-8"):
        read_jsonl(tmp_path / "texts.jsonl")
