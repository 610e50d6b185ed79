"""Reads an SLO policy from a YAML file and says on which line each problem stands.

Takes a path; gives an `SloPolicy` or a `PolicyError` whose problems carry lines. Knows nothing of
what the keys mean (that is `config`), only where they are.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from controller.config import SloPolicy, parse_policy
from controller.problems import PolicyError, Problem


def load_policy(path: Path | str) -> SloPolicy:
    """The policy in a file; raises PolicyError, in print as `file:line: key: message`."""
    try:
        data, lines, duplicates = _parse(_read(Path(path)))
    except PolicyError as error:
        raise PolicyError(error.problems, str(path)) from error
    problems = duplicates
    try:
        policy = parse_policy(data)
    except PolicyError as error:
        problems = duplicates + [replace(each, line=_line(each, lines)) for each in error.problems]
    if problems:
        raise PolicyError(sorted(problems, key=lambda each: each.line or 0), str(path))
    return policy


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _refusal(1, f"cannot be read: {error.strerror}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _refusal(line, f"is not UTF-8: byte 0x{raw[error.start]:02x}") from error


def _parse(text: str) -> tuple[object, dict[str, int], list[Problem]]:
    """The document's data, the line of every dotted key, and the keys given twice."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise _refusal(1, "is empty: an SLO policy is a mapping starting with `version: 1`")
        duplicates = _duplicates(node)  # before construction, which lets the last one win
        data = loader.construct_document(node)
    except PolicyError:
        raise
    except yaml.YAMLError as error:
        raise _syntax_refusal(error, text) from error
    except RecursionError as error:
        raise _refusal(1, "is not an SLO policy: nested too deeply") from error
    except ValueError as error:
        # SafeLoader lets int() and date() speak for themselves, without a line.
        raise _refusal(1, f"holds a value that cannot be read: {error}") from error
    # After construction, when merged (`<<`) keys stand in their mapping, with their own lines.
    return data, {"": node.start_mark.line + 1, **dict(_keys(node))}, duplicates


def _keys(node: yaml.Node) -> Iterator[tuple[str, int]]:
    """Dotted key and line, in the file's order, of the three levels that a policy has."""
    for key, line, value in _entries(node):
        yield key, line
        for inner_key, inner_line, inner_value in _entries(value):
            yield f"{key}.{inner_key}", inner_line
            for last_key, last_line, _ in _entries(inner_value):
                yield f"{key}.{inner_key}.{last_key}", last_line


def _entries(node: yaml.Node) -> Iterator[tuple[str, int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield key.value, key.start_mark.line + 1, value


def _duplicates(node: yaml.Node) -> list[Problem]:
    first_lines: dict[str, int] = {}
    problems = []
    for key, line in _keys(node):
        if key in first_lines:
            problems.append(Problem(key, f"is given twice, first on line {first_lines[key]}", line))
        first_lines.setdefault(key, line)
    return problems


def _line(problem: Problem, lines: dict[str, int]) -> int:
    """The line of the problem's key or, where that is not in the file, of what should hold it."""
    key = problem.key
    while key not in lines:
        key = key.rpartition(".")[0]
    return lines[key]


def _syntax_refusal(error: yaml.YAMLError, text: str) -> PolicyError:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        return _refusal(error.problem_mark.line + 1, f"is not valid YAML: {reason}")
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return _refusal(line, f"is not valid YAML: holds the character {text[error.position]!r}")
    return _refusal(1, f"is not valid YAML: {error}")


def _refusal(line: int, message: str) -> PolicyError:
    return PolicyError([Problem("", message, line)])
