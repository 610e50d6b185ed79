"""What is refused before or while a checkpoint is loaded, and which SLO policies it can serve."""

from pathlib import Path

import pytest
import torch

from controller.problems import PolicyError
from controller.profiles import ProfileError, write_profile
from runtime.checkpoint import (
    Checkpoint,
    CheckpointError,
    best_dtype,
    check_checkpoint,
    load_checkpoint,
    load_profile_of,
    serve_policy,
)
from runtime.elastic import ExpertDial
from tests.fakes import profile, slo_policy
from tests.runtime.tiny import tiny_model


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").touch()
    return Checkpoint(tmp_path, model, tokenizer=None, dial=ExpertDial(model))  # type: ignore[arg-type]


def served(checkpoint: Checkpoint, **changes: object) -> object:
    policy = slo_policy(**changes).model_dump(mode="json")
    return serve_policy({"slo_policy": policy}, checkpoint, profile())


def test_a_sound_checkpoint_passes_without_its_weights_being_read(checkpoint: Checkpoint) -> None:
    (checkpoint.folder / "model.safetensors").unlink()
    check_checkpoint(checkpoint.folder)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_checkpoint(checkpoint.folder)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        check_checkpoint(tmp_path)


def test_a_profile_of_other_weights_is_refused_with_both_hashes(checkpoint: Checkpoint) -> None:
    path = checkpoint.folder / "profile.json"
    write_profile(profile(), path)
    with pytest.raises(ProfileError, match=r"made for 000000000000\.\.\., but .* is [0-9a-f]{12}"):
        load_profile_of(checkpoint.folder, path)


def test_a_policy_within_the_profile_is_served(checkpoint: Checkpoint) -> None:
    assert served(checkpoint) == slo_policy()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"experts": {"floor": 1, "ceiling": 16}}, r"1\.\.16 is outside what the profile gives"),
        ({"experts": {"floor": 5, "ceiling": 7}}, "no rung between floor 5 and ceiling 7"),
        (
            {"experts": {"floor": 1, "ceiling": 8, "prefill_ceiling": 2}},
            "experts: prefill_ceiling 2: the profile does not say what lower prompts cost",
        ),
    ],
)
def test_a_policy_that_the_profile_cannot_serve_is_refused(
    checkpoint: Checkpoint, changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(PolicyError, match=problem):
        served(checkpoint, **changes)


def test_user_config_holds_the_slo_policy_alone(checkpoint: Checkpoint) -> None:
    with pytest.raises(PolicyError, match="holds 'slo_polcy'; accepted: slo_policy alone"):
        serve_policy({"slo_polcy": {}}, checkpoint, profile())


def test_bf16_is_served_only_where_it_is_multiplied() -> None:
    cpu = torch.cpu.get_capabilities()
    multiplies = torch.cuda.is_available() or cpu.get("avx512_bf16") or cpu.get("amx_bf16")
    assert best_dtype() == (torch.bfloat16 if multiplies else torch.float32)
