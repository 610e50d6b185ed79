"""A checkpoint folder -> model, tokenizer, dial; refuses what cannot be served elastically."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

import policies
from controller.config import SloPolicy, parse_policy
from controller.levels import ladder_of
from controller.problems import PolicyError, Problem
from controller.profiles import Profile, ProfileError, load_profile
from runtime.denominator import AboveK, rule_of
from runtime.elastic import ExpertDial
from runtime.experts import Backend, best_backend
from runtime.fusion import fuse, fuse_layers
from runtime.moe_layers import NotElasticError

NUM_PROOF_TOKENS = 16


class CheckpointError(ValueError):
    """The folder is not a checkpoint that kprime can serve; the message says where and why."""


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    dial: ExpertDial

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def context_tokens(self) -> int:
        return int(self.model.config.max_position_embeddings)


def check_checkpoint(folder: Path) -> None:
    """Refuse, before any weight is read, what `load_checkpoint` would refuse by its structure."""
    model = skeleton(folder)
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder}: no tokenizer.json")
    try:
        ExpertDial(model)
        rule_of(model.config)
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def skeleton(folder: Path) -> PreTrainedModel:
    """The model without its weights; raises CheckpointError if the folder holds none."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: no config.json; expected a transformers checkpoint folder"
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: {error}") from error


def load_checkpoint(
    folder: Path, above_k: AboveK | None = None, backend: Backend | None = None
) -> Checkpoint:
    """Load, move to the best device and dtype, and prove that k' takes effect.

    `above_k` overrides the rule above the trained k that the checkpoint names, `backend` the
    fastest one for its experts here.
    Raises CheckpointError for a folder without a checkpoint or a model without a working dial.
    """
    check_checkpoint(folder)
    model, dial = load_model(folder, above_k, backend)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded: {error}") from error
    return Checkpoint(folder, model, tokenizer, dial)


def load_model(
    folder: Path, above_k: AboveK | None = None, backend: Backend | None = None
) -> tuple[PreTrainedModel, ExpertDial]:
    """What `load_checkpoint` loads, without the tokenizer."""
    disable_progress_bar()
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder, dtype=best_dtype(), local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded: {error}") from error
    if missing := sorted(loading["missing_keys"]):
        # transformers would serve random numbers in their place.
        raise CheckpointError(
            f"{folder}: the weights lack {missing[0]} and {len(missing) - 1} more"
        )
    model = model.to(best_device()).eval()
    try:
        dial = ExpertDial(model)
        fuse(model)  # first: a fused router ranks equal weights alike at every k'
        proof_ids_BS = torch.arange(NUM_PROOF_TOKENS, device=model.device)[None]
        dial.install(
            backend or best_backend(dial.layers), proof_ids_BS, above_k or rule_of(model.config)
        )
        fuse_layers(dial)
        dial.prove(proof_ids_BS)
    except NotElasticError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except RuntimeError as error:  # torch's, in the first forward pass
        raise CheckpointError(f"{folder}: the model does not run here: {error}") from error
    return model, dial


def load_profile_of(folder: Path, path: Path) -> Profile:
    """The profile at `path`; raises ProfileError if it was made for another checkpoint."""
    profile = load_profile(path)
    expected = checkpoint_sha256(folder)
    if profile.checkpoint_sha256 != expected:
        raise ProfileError(
            f"{path}: checkpoint_sha256: made for {profile.checkpoint_sha256[:12]}..., but "
            f"{folder} is {expected[:12]}...; run kprime calibrate"
        )
    return profile


def serve_policy(
    user_config: dict[str, object], checkpoint: Checkpoint, profile: Profile
) -> SloPolicy:
    """The SLO policy in Serve's `user_config`; raises PolicyError also for what the model lacks."""
    if set(user_config) != {"slo_policy"}:
        keys = ", ".join(map(repr, user_config)) or "nothing"
        raise PolicyError([Problem("user_config", f"holds {keys}; accepted: slo_policy alone")])
    slo_policy = parse_policy(user_config["slo_policy"])
    lowest, highest = profile.rungs[0].mean_k, profile.rungs[-1].mean_k
    experts = slo_policy.experts
    if not lowest <= experts.floor <= experts.ceiling <= min(highest, checkpoint.dial.max_k):
        bounds = f"{experts.floor}..{experts.ceiling} is outside what the profile gives"
        raise PolicyError([Problem("experts", f"{bounds}, {lowest:g}..{highest:g}")])
    try:
        ladder_of(slo_policy, profile)
    except ValueError as error:
        raise PolicyError([Problem("experts", str(error))]) from error
    try:
        policies.build(slo_policy, profile)
    except ValueError as error:
        raise PolicyError([Problem("policy", str(error))]) from error
    return slo_policy


def checkpoint_sha256(folder: Path) -> str:
    """One hash over all weight files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def best_dtype() -> torch.dtype:
    """bf16 where the hardware multiplies it; emulated it is 2-5x slower than fp32 (docs/log.md)."""
    if torch.cuda.is_available():
        return torch.bfloat16
    cpu = torch.cpu.get_capabilities()
    return torch.bfloat16 if cpu.get("avx512_bf16") or cpu.get("amx_bf16") else torch.float32
