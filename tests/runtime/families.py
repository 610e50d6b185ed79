"""Tiny random models of every MoE family of transformers that a text can be run through.

What `tests/runtime/test_families.py` measures on each is written here as data, so that a reader
sees what can be relied on in which family. A family is named after its modeling folder.

Shapes: B sequences, S tokens each.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

Fields = dict[str, Any]

K = 3
IDS_BS = torch.arange(2, 26).view(2, 12)

SHAPE: Fields = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 16,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # wide, so that the choice of experts shows in the output
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
HEADS: Fields = {"head_dim": 8}
LATENT_HEADS: Fields = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
INDEXER: Fields = {"index_topk": 4, "index_head_dim": 8, "index_n_heads": 2}
GATED_DELTA: Fields = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
MAMBA: Fields = {"mamba_d_state": 8, "mamba_d_conv": 2, "mamba_expand": 2}
NUM_EXPERTS: Fields = {"num_experts": 8}
LOCAL_EXPERTS: Fields = {"num_local_experts": 8}
ROUTED_EXPERTS: Fields = {"n_routed_experts": 8, "n_shared_experts": 1}
# A token may go to 2 of 4 groups of 2 experts, so to no more than 4.
GROUPS: Fields = {"n_group": 4, "topk_group": 2}
ALL_SPARSE: Fields = {"mlp_layer_types": ["sparse", "sparse"]}
FULL_ATTENTION: Fields = {"layer_types": ["full_attention", "full_attention"]}
VISION: Fields = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
}
DEEPSTACK_VISION: Fields = VISION | {"deepstack_visual_indexes": [0]}
ROPE: Fields = {"rope_type": "default", "rope_theta": 10000.0}
SAM: Fields = {
    "hidden_size": 16,
    "output_channels": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "mlp_dim": 16,
    "downsample_channels": [16, 16],
}
ENCODER: Fields = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
AUDIO: Fields = {
    "num_mel_bins": 8,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "d_model": 16,
    "output_dim": 32,
    "downsample_hidden_size": 8,
}


@dataclass(frozen=True)
class Family:
    """How to build one, and what its router does."""

    model: str
    config: str
    fields: Fields
    k_field: str = "num_experts_per_tok"
    # Of a model that wraps a language model: the fields of its other configs.
    wrapper: Fields | None = None
    max_k: int = 8
    # What the router returns, by position; the experts always take (hidden, indices, weights).
    returns: tuple[str, ...] = ("logits", "weights", "indices")
    # The k' largest weights of a wider selection are what the router selects at k'.
    nested_by_weight: bool = True
    # The sum of the weights does not depend on k'.
    renormalises: bool = True

    def build_config(self, k: int) -> PreTrainedConfig:
        config_class = getattr(transformers, self.config)
        fields = SHAPE | self.fields | {self.k_field: k}
        if self.wrapper is None:
            return config_class(**fields)
        return config_class(text_config=fields, **self.wrapper)

    def build(self, k: int = K) -> PreTrainedModel:
        """Random weights that do not depend on k, routers included."""
        torch.manual_seed(0)
        model = getattr(transformers, self.model)(self.build_config(k)).eval()
        _fill_routers(model)
        return model


@torch.no_grad()
def _fill_routers(model: PreTrainedModel) -> None:
    """Routers start at zero in many families, and what biases their selection in all."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if re.search("Router|Gating", type(module).__name__):
            for weight in module.parameters():
                if weight.dim() == 2:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    for name, tensor in model.state_dict().items():
        if name.endswith(("correction_bias", "expert_bias", "router.bias", "per_expert_scale")):
            tensor.add_(torch.rand(tensor.shape, generator=generator) - 0.5)


BIASED: Fields = {"nested_by_weight": False}

FAMILIES: dict[str, Family] = {
    "afmoe": Family(
        "AfmoeForCausalLM",
        "AfmoeConfig",
        HEADS | NUM_EXPERTS | {"num_dense_layers": 0},
        **BIASED,
    ),
    "aria": Family(
        "AriaTextForCausalLM",
        "AriaTextConfig",
        {"moe_num_experts": 8},
        "moe_topk",
        returns=("indices", "weights", "logits"),
    ),
    "axk1": Family(
        "AXK1ForCausalLM",
        "AXK1Config",
        LATENT_HEADS | ROUTED_EXPERTS | GROUPS | {"first_k_dense_replace": 0},
        max_k=4,
        **BIASED,
    ),
    "axk2": Family(
        "AXK2ForCausalLM",
        "AXK2Config",
        LATENT_HEADS | INDEXER | ROUTED_EXPERTS | GROUPS | ALL_SPARSE | {"gated_norm_rank": 4},
        max_k=4,
        **BIASED,
    ),
    "cohere2_moe": Family(
        "Cohere2MoeForCausalLM", "Cohere2MoeConfig", HEADS | NUM_EXPERTS | ALL_SPARSE
    ),
    "deepseek_ocr2": Family(
        "DeepseekOcr2ForConditionalGeneration",
        "DeepseekOcr2Config",
        HEADS | ROUTED_EXPERTS | GROUPS | ALL_SPARSE | {"topk_method": "group_limited_greedy"},
        wrapper={"vision_config": {"sam_config": SAM, "encoder_config": ENCODER}},
        max_k=4,
        renormalises=False,
    ),
    "deepseek_v2": Family(
        "DeepseekV2ForCausalLM",
        "DeepseekV2Config",
        LATENT_HEADS | ROUTED_EXPERTS | GROUPS | {"topk_method": "group_limited_greedy"},
        max_k=4,
        renormalises=False,
    ),
    "deepseek_v3": Family(
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        LATENT_HEADS | ROUTED_EXPERTS | GROUPS | {"first_k_dense_replace": 0},
        max_k=4,
        **BIASED,
    ),
    "deepseek_v32": Family(
        "DeepseekV32ForCausalLM",
        "DeepseekV32Config",
        LATENT_HEADS | INDEXER | ROUTED_EXPERTS | GROUPS | ALL_SPARSE,
        max_k=4,
        **BIASED,
    ),
    "deepseek_v4": Family(
        "DeepseekV4ForCausalLM",
        "DeepseekV4Config",
        INDEXER
        | ROUTED_EXPERTS
        | {
            "num_key_value_heads": 1,
            "head_dim": 8,
            "q_lora_rank": 16,
            "o_groups": 2,
            "o_lora_rank": 8,
            "mlp_layer_types": ["moe", "moe"],
        },
        **BIASED,
    ),
    "dots1": Family(
        "Dots1ForCausalLM",
        "Dots1Config",
        HEADS | ROUTED_EXPERTS | GROUPS | {"norm_topk_prob": True},
        max_k=4,
        **BIASED,
    ),
    "ernie4_5_moe": Family(
        "Ernie4_5_MoeForCausalLM",
        "Ernie4_5_MoeConfig",
        {"moe_num_experts": 8, "moe_layer_start_index": 0},
        "moe_k",
        **BIASED,
    ),
    "ernie4_5_vl_moe": Family(
        "Ernie4_5_VLMoeForConditionalGeneration",
        "Ernie4_5_VLMoeConfig",
        ALL_SPARSE
        | {"moe_num_experts": 8, "moe_intermediate_size": [16, 16]}
        | {"rope_parameters": ROPE | {"mrope_section": [1, 1, 2]}},
        "moe_k",
        wrapper={"vision_config": VISION},
        **BIASED,
    ),
    "exaone_moe": Family(
        "ExaoneMoeForCausalLM",
        "ExaoneMoeConfig",
        HEADS | NUM_EXPERTS | GROUPS | ALL_SPARSE,
        max_k=4,
        **BIASED,
    ),
    "flex_olmo": Family("FlexOlmoForCausalLM", "FlexOlmoConfig", NUM_EXPERTS, renormalises=False),
    "gemma4": Family(
        "Gemma4ForCausalLM",
        "Gemma4TextConfig",
        HEADS
        | NUM_EXPERTS
        | {
            "enable_moe_block": True,
            "global_head_dim": 8,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 64,
        },
        "top_k_experts",
        returns=("probabilities", "weights", "indices"),
        # It scales what it has renormalised, by a learned factor of each expert.
        nested_by_weight=False,
        renormalises=False,
    ),
    "glm4_moe": Family(
        "Glm4MoeForCausalLM",
        "Glm4MoeConfig",
        HEADS | ROUTED_EXPERTS | GROUPS | {"first_k_dense_replace": 0},
        max_k=4,
        **BIASED,
    ),
    "glm4_moe_lite": Family(
        "Glm4MoeLiteForCausalLM",
        "Glm4MoeLiteConfig",
        LATENT_HEADS | ROUTED_EXPERTS | GROUPS | ALL_SPARSE,
        max_k=4,
        **BIASED,
    ),
    "glm4v_moe": Family(
        "Glm4vMoeForConditionalGeneration",
        "Glm4vMoeConfig",
        ROUTED_EXPERTS
        | GROUPS
        | {"first_k_dense_replace": 0, "head_dim": 16}
        | {"rope_parameters": ROPE | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}},
        wrapper={"vision_config": VISION},
        max_k=4,
        **BIASED,
    ),
    "glm5_next": Family(
        "Glm5NextForConditionalGeneration",
        "Glm5NextConfig",
        LATENT_HEADS
        | INDEXER
        | ROUTED_EXPERTS
        | GROUPS
        | ALL_SPARSE
        | {"qk_rope_head_dim": 0, "qk_nope_head_dim": 8, "index_kpool": 2}
        | {"linear_head_dim": 8, "linear_num_heads": 4}
        | {"layer_types": ["linear_attention", "full_attention"]},
        wrapper={"vision_config": VISION | {"projection_intermediate_size": 16}},
        max_k=4,
        **BIASED,
    ),
    "glm_moe_dsa": Family(
        "GlmMoeDsaForCausalLM",
        "GlmMoeDsaConfig",
        LATENT_HEADS | INDEXER | ROUTED_EXPERTS | GROUPS | ALL_SPARSE,
        max_k=4,
        **BIASED,
    ),
    "gpt_oss": Family("GptOssForCausalLM", "GptOssConfig", HEADS | LOCAL_EXPERTS),
    "granitemoe": Family(
        "GraniteMoeForCausalLM",
        "GraniteMoeConfig",
        LOCAL_EXPERTS,
        returns=("indices", "weights", "logits"),
    ),
    "granitemoe_swa": Family("GraniteMoeSWAForCausalLM", "GraniteMoeSWAConfig", LOCAL_EXPERTS),
    "granitemoehybrid": Family(
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeHybridConfig",
        LOCAL_EXPERTS
        | MAMBA
        | {"mamba_n_heads": 8, "mamba_d_head": 8, "shared_intermediate_size": 16}
        | {"layer_types": ["mamba", "attention"]},
        returns=("indices", "weights", "logits"),
    ),
    "granitemoeshared": Family(
        "GraniteMoeSharedForCausalLM",
        "GraniteMoeSharedConfig",
        LOCAL_EXPERTS | {"shared_intermediate_size": 16},
        returns=("indices", "weights", "logits"),
    ),
    "hunyuan_v1_moe": Family(
        "HunYuanMoEV1ForCausalLM", "HunYuanMoEV1Config", HEADS | NUM_EXPERTS, "moe_topk"
    ),
    "hy_v3": Family(
        "HYV3ForCausalLM",
        "HYV3Config",
        HEADS | NUM_EXPERTS | ALL_SPARSE,
        **BIASED,
    ),
    "hy_v4": Family(
        "HYV4ForCausalLM",
        "HYV4Config",
        LATENT_HEADS | INDEXER | HEADS | ROUTED_EXPERTS | GROUPS | ALL_SPARSE,
        max_k=4,
        **BIASED,
    ),
    "inkling": Family(
        "InklingForCausalLM",
        "InklingTextConfig",
        HEADS
        | ALL_SPARSE
        | {"n_routed_experts": 8, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2}
        | {"swa_head_dim": 8, "d_rel": 4, "rel_extent": 16},
        returns=("logits", "weights", "indices", "other"),  # the weights of its shared experts
        nested_by_weight=False,
        # Its shared experts divide the same one among themselves and the routed.
        renormalises=False,
    ),
    "jamba": Family(
        "JambaForCausalLM",
        "JambaConfig",
        NUM_EXPERTS
        | MAMBA
        | {"expert_layer_period": 1, "expert_layer_offset": 0}
        | {"attn_layer_period": 2, "attn_layer_offset": 1},
        returns=("hidden states",),  # no module of its own: the block selects
        renormalises=False,
    ),
    "kimi_linear": Family(
        "KimiLinearForCausalLM",
        "KimiLinearConfig",
        LATENT_HEADS
        | LOCAL_EXPERTS
        | GROUPS
        | ALL_SPARSE
        | {"linear_head_dim": 8, "linear_num_heads": 4}
        | {"layer_types": ["linear_attention", "full_attention"]},
        max_k=4,
        **BIASED,
    ),
    "laguna": Family(
        "LagunaForCausalLM",
        "LagunaConfig",
        HEADS | NUM_EXPERTS | ALL_SPARSE | {"shared_expert_intermediate_size": 16},
        **BIASED,
    ),
    "lfm2_moe": Family(
        "Lfm2MoeForCausalLM",
        "Lfm2MoeConfig",
        NUM_EXPERTS | FULL_ATTENTION | {"num_dense_layers": 0},
        **BIASED,
    ),
    "mellum": Family("MellumForCausalLM", "MellumConfig", HEADS | LOCAL_EXPERTS | ALL_SPARSE),
    "mimo_v2_flash": Family(
        "MiMoV2FlashForCausalLM",
        "MiMoV2FlashConfig",
        HEADS | {"v_head_dim": 8} | ROUTED_EXPERTS | GROUPS | ALL_SPARSE,
        max_k=4,
        **BIASED,
    ),
    "minimax": Family("MiniMaxForCausalLM", "MiniMaxConfig", HEADS | LOCAL_EXPERTS),
    "minimax_m2": Family(
        "MiniMaxM2ForCausalLM",
        "MiniMaxM2Config",
        HEADS | LOCAL_EXPERTS,
        **BIASED,
    ),
    "minimax_m3_vl": Family(
        "MiniMaxM3VLForCausalLM",
        "MiniMaxM3VLTextConfig",
        HEADS
        | LOCAL_EXPERTS
        | ALL_SPARSE
        | {"rotary_dim": 4, "dense_intermediate_size": 16, "shared_intermediate_size": 16}
        | {"index_n_heads": 2, "index_head_dim": 8, "index_block_size": 4, "index_topk_blocks": 2},
        **BIASED,
    ),
    "mistral4": Family(
        "Mistral4ForCausalLM",
        "Mistral4Config",
        LATENT_HEADS | ROUTED_EXPERTS | GROUPS,
        max_k=4,
    ),
    "mixtral": Family("MixtralForCausalLM", "MixtralConfig", LOCAL_EXPERTS),
    "nemotron_h": Family(
        "NemotronHForCausalLM",
        "NemotronHConfig",
        HEADS
        | ROUTED_EXPERTS
        | GROUPS
        | {"layers_block_type": ["attention", "moe", "moe"], "num_hidden_layers": 3}
        | {"moe_shared_expert_intermediate_size": 16},
        max_k=4,
        **BIASED,
    ),
    "olmoe": Family("OlmoeForCausalLM", "OlmoeConfig", NUM_EXPERTS, renormalises=False),
    "qwen2_moe": Family(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        NUM_EXPERTS | {"shared_expert_intermediate_size": 16},
        renormalises=False,
    ),
    "qwen3_5_moe": Family(
        "Qwen3_5MoeForCausalLM",
        "Qwen3_5MoeTextConfig",
        HEADS
        | NUM_EXPERTS
        | GATED_DELTA
        | {"shared_expert_intermediate_size": 16}
        | {"layer_types": ["linear_attention", "full_attention"]},
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        HEADS | NUM_EXPERTS | {"norm_topk_prob": True},
    ),
    "qwen3_next": Family(
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        HEADS
        | NUM_EXPERTS
        | GATED_DELTA
        | {"shared_expert_intermediate_size": 16}
        | {"layer_types": ["linear_attention", "full_attention"]},
    ),
    "qwen3_omni_moe": Family(
        "Qwen3OmniMoeThinkerForConditionalGeneration",
        "Qwen3OmniMoeThinkerConfig",
        HEADS | NUM_EXPERTS | {"norm_topk_prob": True},
        wrapper={
            "vision_config": VISION | {"deepstack_visual_indexes": [0]},
            "audio_config": AUDIO,
        },
    ),
    "qwen3_vl_moe": Family(
        "Qwen3VLMoeForConditionalGeneration",
        "Qwen3VLMoeConfig",
        HEADS | LOCAL_EXPERTS,
        wrapper={"vision_config": DEEPSTACK_VISION},
    ),
    "qwen4_exp": Family(
        "Qwen4ExpForCausalLM",
        "Qwen4ExpTextConfig",
        HEADS
        | NUM_EXPERTS
        | GATED_DELTA
        | {"shared_expert_intermediate_size": 16}
        | {"layer_types": ["linear_attention", "full_attention"], "hc_lowrank": 4}
        | {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8}
        | {"indexer_budget": 4, "indexer_compress_ratio": 2},
    ),
    "solar_open": Family(
        "SolarOpenForCausalLM",
        "SolarOpenConfig",
        HEADS | ROUTED_EXPERTS | GROUPS,
        max_k=4,
        **BIASED,
    ),
}

LEFT_OUT: dict[str, str] = {
    "diffusion_gemma": "denoises blocks of tokens; it has no next-token logits",
    "openai_privacy_filter": "classifies tokens; and it is refused, see below",
    "phimoe": "is refused, see below",
    "zaya": "is refused, see below",
}


class Refused(NamedTuple):
    family: Family
    k: int
    layer: str
    reason: str


OUTSIDE = "outside transformers' experts interface"

REFUSED: dict[str, Refused] = {
    "dbrx": Refused(
        Family(
            "DbrxForCausalLM",
            "DbrxConfig",
            {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}
            | {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0}}
            | {"ffn_config": {"hidden_size": 32, "ffn_hidden_size": 16, "moe_num_experts": 8}},
        ),
        1,
        "transformer.blocks.0.ffn",
        f"DbrxExperts is {OUTSIDE}",
    ),
    "deepseek_v4, hash layers alone": Refused(
        replace(
            FAMILIES["deepseek_v4"],
            fields=FAMILIES["deepseek_v4"].fields | {"mlp_layer_types": ["hash_moe", "hash_moe"]},
        ),
        K,
        "all 2 MoE layers are fixed: model.layers.0.mlp",
        "DeepseekV4HashRouter takes its experts from a fixed table of token ids",
    ),
    "doge": Refused(
        Family(
            "DogeForCausalLM", "DogeConfig", {"is_moe": True, "num_experts": 16, "vocab_size": 64}
        ),
        K,
        "model.layers.0.mlp",
        f"DogeCDMoE selects experts {OUTSIDE}",
    ),
    "jetmoe": Refused(
        Family("JetMoeForCausalLM", "JetMoeConfig", LOCAL_EXPERTS | {"kv_channels": 8}),
        2,
        "model.layers.0.mlp.router",
        f"JetMoeTopKGating selects experts {OUTSIDE}",
    ),
    "llama4": Refused(
        Family(
            "Llama4ForCausalLM",
            "Llama4TextConfig",
            HEADS | LOCAL_EXPERTS | {"intermediate_size_mlp": 16, "interleave_moe_layer_step": 1},
        ),
        2,
        "model.layers.0.feed_forward",
        "Llama4TextExperts computes every expert for every token",
    ),
    "longcat_flash": Refused(
        Family(
            "LongcatFlashForCausalLM",
            "LongcatFlashConfig",
            LATENT_HEADS
            | {"n_routed_experts": 4, "zero_expert_num": 4, "expert_ffn_hidden_size": 16}
            | {"ffn_hidden_size": 16, "num_layers": 2, "head_dim": 4},
            "moe_topk",
        ),
        K,
        "model.layers.0.mlp",
        "LongcatFlashExperts has experts that compute nothing",
    ),
    "openai_privacy_filter": Refused(
        Family(
            "OpenAIPrivacyFilterForTokenClassification",
            "OpenAIPrivacyFilterConfig",
            HEADS | LOCAL_EXPERTS,
        ),
        K,
        "model.layers.0.mlp",
        "OpenAIPrivacyFilterTopKRouter divides by k what its block multiplies",
    ),
    "phimoe": Refused(
        Family("PhimoeForCausalLM", "PhimoeConfig", LOCAL_EXPERTS),
        2,
        "model.layers.0.mlp",
        "PhimoeTopKRouter selects by a sparsemixer, which is written for two experts",
    ),
    "step3p7": Refused(
        Family(
            "Step3p7ForConditionalGeneration",
            "Step3p7Config",
            HEADS | LOCAL_EXPERTS | ALL_SPARSE,
            wrapper={"vision_config": VISION},
        ),
        K,
        "model.language_model.layers.0.mlp",
        f"Step3p7Experts is {OUTSIDE}",
    ),
    "zaya": Refused(
        Family("ZayaForCausalLM", "ZayaConfig", HEADS | NUM_EXPERTS | {"router_hidden_size": 8}),
        1,
        "model.layers.0.mlp",
        "ZayaRouter is made for one expert a token",
    ),
}
