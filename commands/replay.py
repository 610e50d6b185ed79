"""`kprime replay`: a live journal's decisions made again, or another policy's on the same loads.

Only checks what the operator wrote and shows what came out; the deciding is in
`simulations.decisions`, the reading in `controller.journal`.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from commands.exits import BAD_INPUT, FAILED, bad_input, check_outputs, stop

if TYPE_CHECKING:
    from controller.journal import Adoption, JournalReader
    from controller.profiles import Profile
    from simulations.decisions import Course, Difference, Replayed

OTHER_LOADS = (
    "the loads are those that the journal's plans led to: under the other policy queues and "
    "latencies would have been others, and so its later decisions"
)


def replay(
    journal: Annotated[
        Path,
        typer.Argument(metavar="JOURNAL", help="Of a controller; its older files are read as well"),
    ],
    policy_file: Annotated[
        Path | None, typer.Option(help="Show what this SLO policy would have decided instead")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Default: where the journal says the profile was")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Figures to write")] = None,
) -> None:
    """Make a journal's decisions again and compare, or decide by another policy.

    Exit status: 0 when every decision came out the same, 1 when any did not, 2 for bad input.

    Example: kprime replay runs/journal.jsonl
    """
    from controller.journal import JournalReader, files_of
    from controller.policy_file import load_policy
    from simulations.decisions import replay_exactly, replay_instead

    console = Console(highlight=False, soft_wrap=True)
    check_outputs({"--json": json_file})
    with bad_input():
        files = files_of(journal)
        reader = JournalReader(files)
        profiles = Profiles(profile)
        other = load_policy(policy_file) if policy_file else None
        with console.status(f"replaying {journal}"):
            if other is None:
                result = replay_exactly(reader, profiles)
            else:
                was, would = replay_instead(reader, other, profiles)
    if not profiles.used:
        stop(
            f"{journal}: no adopted SLO policy in it: an empty journal, or one of an older kprime, "
            "which did not write what a replay needs",
            BAD_INPUT,
        )
    if len(files) > 1:
        console.print(f"{len(files)} files, from {files[0].name} to {files[-1].name}")
    _show_notes(console, reader)
    if other is None:
        figures = _figures(result, reader)
        _show(console, result, reader.before_adoption)
    else:
        assert policy_file is not None
        figures = _courses(was, would, str(policy_file), reader)
        _compare(console, was, would, str(policy_file))
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")
    if other is None and result.differences:
        stop(f"{result.differences} of {result.replayed} decisions differ", FAILED)


class Profiles:
    """The profile that an adoption was decided by: the one given, or the one the journal names."""

    def __init__(self, given: Path | None) -> None:
        self._given = given
        self.used: dict[str, Profile] = {}  # by digest

    def __call__(self, adoption: "Adoption", place: str) -> "Profile":
        """Raises ValueError if it is not the very profile."""
        from controller.journal import profile_digest
        from controller.profiles import load_profile

        digest = adoption.profile_digest
        if digest not in self.used:
            file = self._given or Path(adoption.profile)
            try:
                profile = load_profile(file)
            except ValueError as error:
                raise ValueError(
                    f"{error}; give --profile: {place} has {digest[:12]}..."
                ) from error
            if (found := profile_digest(profile)) != digest:
                raise ValueError(
                    f"{place}: decided by the profile {digest[:12]}..., but {file} is "
                    f"{found[:12]}...; give the former as --profile"
                )
            self.used[digest] = profile
        return self.used[digest]


def _show_notes(console: Console, reader: "JournalReader") -> None:
    for note in reader.notes:
        console.print(f"[yellow]{note}")


def _show(console: Console, result: "Replayed", before_adoption: int) -> None:
    from controller.journal import code_digest

    console.print(
        f"{result.ticks} ticks, {result.adoptions} adoptions of an SLO policy; "
        f"{result.replayed} decisions made again, {result.differences} differ"
    )
    if before_adoption:
        console.print(
            f"{before_adoption} ticks stand before the first adoption: nothing says which "
            "policy decided them; the replay starts after them"
        )
    if result.without_memory:
        console.print(
            f"{result.without_memory} ticks not compared: the file goes on from one that is gone, "
            "and what the policy remembered from it is not known"
        )
    if result.epoch_jumps:
        console.print(
            f"{result.epoch_jumps} times the epoch went ahead, to count on above a predecessor's"
        )
    others = [code for code in result.codes if code != code_digest()]
    if others:
        console.print(
            f"[yellow]decided by other code than this kprime's: {', '.join(others)}, "
            f"here {code_digest()}"
        )
    for each in result.shown:
        for line in _lines_of(each):
            console.print(line, markup=False)
    if result.differences > len(result.shown):
        console.print(f"... and {result.differences - len(result.shown)} more")


def _lines_of(each: "Difference") -> list[str]:
    return [
        f"{each.place}: at {each.at_s:.3f} s",
        f"  journal: k' {each.budget.mean_k:g}, plan {_plan(each.plan.k)} epoch "
        f"{each.plan.epoch}: {each.budget.reason}",
        f"  again:   k' {each.budget_again.mean_k:g}, plan {_plan(each.plan_again.k)} epoch "
        f"{each.plan_again.epoch}: {each.budget_again.reason}",
    ]


def _plan(k: tuple[int, ...]) -> str:
    return " ".join(map(str, k))


def _figures(result: "Replayed", reader: "JournalReader") -> dict[str, Any]:
    names = ("ticks", "replayed", "without_memory", "adoptions", "epoch_jumps")
    return {
        "before_adoption": reader.before_adoption,
        **{name: getattr(result, name) for name in names},
        "differences": result.differences,
        "first": [asdict(each) for each in result.shown],
        "codes": list(result.codes),
        "notes": reader.notes,
    }


def _compare(console: Console, was: "Course", would: "Course", name: str) -> None:
    table = Table("", "as it was", name)
    for mean_k in sorted(was.seconds.keys() | would.seconds.keys(), reverse=True):
        table.add_row(
            f"time at k' {mean_k:g}", f"{was.share(mean_k):.1%}", f"{would.share(mean_k):.1%}"
        )
    table.add_row("mean k'", f"{was.mean_k:.3f}", f"{would.mean_k:.3f}")
    table.add_row("quality, mean over time", f"{was.quality:.4f}", f"{would.quality:.4f}")
    table.add_row("changes of plan", str(was.changes), str(would.changes))
    console.print(table)
    console.print(f"over {was.total_s:.1f} s; {OTHER_LOADS}")


def _courses(was: "Course", would: "Course", name: str, reader: "JournalReader") -> dict[str, Any]:
    courses = {"journal": was, name: would}
    return {
        "seconds": was.total_s,
        "arms": {
            arm: {
                "share": {f"{mean_k:g}": course.share(mean_k) for mean_k in course.seconds},
                "mean_k": course.mean_k,
                "quality": course.quality,
                "changes": course.changes,
            }
            for arm, course in courses.items()
        },
        "notes": [*reader.notes, OTHER_LOADS],
    }
