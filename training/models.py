"""The model a recipe trains: from random weights, from a checkpoint, or adapters on one."""

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from runtime.checkpoint import check_checkpoint
from runtime.elastic import ExpertDial
from training.recipe import Lora, Recipe


def build_model(recipe: Recipe, eos_token_id: int) -> Qwen3MoeForCausalLM:
    """Qwen3-MoE layout with random weights in fp32."""
    config = Qwen3MoeConfig(
        **recipe.model.model_dump(),
        intermediate_size=recipe.model.moe_intermediate_size,
        num_experts_per_tok=recipe.elasticity.k,
        norm_topk_prob=True,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id,
        dtype="bfloat16",  # as saved
    )
    return Qwen3MoeForCausalLM(config)


def load_start(recipe: Recipe) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The checkpoint to go on from, in fp32, its trained k set to the recipe's.

    Raises ValueError for a folder without an elastic checkpoint, or one without so many experts.
    """
    folder = recipe.start_folder
    check_checkpoint(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    dial = ExpertDial(model)
    if recipe.elasticity.widest > dial.max_k:
        raise ValueError(
            f"{folder}: elasticity reaches {recipe.elasticity.widest} experts, "
            f"the model has {dial.max_k}"
        )
    if set(dial.plan) != {recipe.elasticity.k}:
        if not hasattr(model.config, "num_experts_per_tok"):
            raise ValueError(f"{folder}: was trained with k = {dial.plan[0]}; set elasticity.k so")
        model.config.num_experts_per_tok = recipe.elasticity.k
        dial.set([recipe.elasticity.k] * len(dial.layers))
    model.config.dtype = torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model.train(), tokenizer


def wrap_lora(model: PreTrainedModel, lora: Lora, dial: ExpertDial) -> nn.Module:
    """Adapters on attention projections and on the experts' 3-D weights; routers train whole."""
    import peft  # only fine-tuning with adapters needs it

    parameters = [
        f"{layer.name}.experts.{name}"
        for layer in dial.layers
        for name, parameter in layer.experts.named_parameters()
        if parameter.ndim == 3
    ]
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=r".*\.(q_proj|k_proj|v_proj|o_proj)",
        target_parameters=parameters,
    )
    wrapped = peft.get_peft_model(model, config)
    for layer in dial.layers:
        for parameter in layer.router.parameters():
            parameter.requires_grad_(True)
    return wrapped
