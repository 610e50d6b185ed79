"""What is wrong with a document, in an operator's words.

Takes the errors of pydantic and the model that was to be validated; gives a problem a line, by the
dotted key, with what is accepted. Knows no key of any document.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError


@dataclass(frozen=True, slots=True)
class Problem:
    key: str  # dotted; empty for the document as a whole
    message: str
    line: int | None = None  # counted from 1

    def text(self, file: str = "") -> str:
        place = ":".join(str(part) for part in (file, self.line) if part)
        return ": ".join(part for part in (place, self.key, self.message) if part)


class PolicyError(ValueError):
    """Everything wrong with one policy document, one line a problem."""

    def __init__(self, problems: list[Problem], file: str = "") -> None:
        super().__init__(problems, file)  # both: or the error could not be pickled
        self.problems = problems
        self.file = file

    def __str__(self) -> str:
        return "\n".join(problem.text(self.file) for problem in self.problems)


def refusal(message: str, **inner: object) -> PydanticCustomError:
    """Refuses the value being validated or, if that is a section, one `key=value` within it."""
    return PydanticCustomError("refused", "{message}", {"message": message, "inner": inner})


def problems_of(error: ValidationError, document: type[BaseModel]) -> list[Problem]:
    details = error.errors(include_url=False)
    # A default that could not be worked out follows from a problem that is listed already.
    return [
        _problem(each, document) for each in details if each["type"] != "default_factory_not_called"
    ]


def _problem(detail: ErrorDetails, document: type[BaseModel]) -> Problem:
    path = [str(part) for part in detail["loc"]]
    value = detail["input"]
    match detail["type"]:
        case "extra_forbidden" | "invalid_key":
            return Problem(".".join(path), _unknown_key(path[-1], _keys(document, path[:-1])))
        case "string_pattern_mismatch" | "string_type" if path[-1] == "[key]":
            return Problem(
                ".".join(path[:-1]), f"should be named by {_naming(document, path[:-2])}"
            )
        case "missing":
            description = _section(document, path[:-1]).model_fields[path[-1]].description
            return Problem(".".join(path), f"is missing: {description}")
        case "model_type":
            message = f"should be a mapping with the keys {', '.join(_keys(document, path))}"
        case "mapping_type" | "dict_type":
            message = "should be a mapping"
        case _:
            message = detail["msg"].replace("Input should", "should")
    for key, inner_value in detail.get("ctx", {}).get("inner", {}).items():
        path, value = [*path, key], inner_value
    return Problem(".".join(path), f"{message}, given {_describe(value)}")


def _unknown_key(key: str, accepted: Sequence[str]) -> str:
    closest = get_close_matches(key, accepted, n=1)
    hint = f"; did you mean {closest[0]}?" if closest else ""
    return f"is not a known key, accepted: {', '.join(accepted)}{hint}"


def _keys(document: type[BaseModel], path: Iterable[str]) -> list[str]:
    return list(_section(document, path).model_fields)


def _section(document: type[BaseModel], path: Iterable[str]) -> type[BaseModel]:
    """The model that a path leads to."""
    section = _type_at(document, path)
    assert isinstance(section, type) and issubclass(section, BaseModel)
    return section


def _naming(document: type[BaseModel], path: Iterable[str]) -> str:
    """How the entries of a mapping are named: its key type's description."""
    key_type, _ = get_args(_type_at(document, path))
    (of_field,) = key_type.__metadata__
    return str(of_field.description)


def _type_at(document: type[BaseModel], path: Iterable[str]) -> Any:  # noqa: ANN401  (a type form)
    """Through the fields of models and the entries of mappings."""
    at: Any = document
    for part in path:
        is_mapping = get_origin(at) is Mapping
        at = get_args(at)[1] if is_mapping else at.model_fields[part].annotation
    return at


def _describe(value: object) -> str:
    """A value as an operator would recognise it, on one short line."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and abs(value) > 10**15:  # repr refuses integers of many digits
        return "an integer of more than 15 digits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
