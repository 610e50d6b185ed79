"""The forward pass of a model all of whose layers are fused, without what transformers does around.

Shapes: T tokens of a step, W width of the model, D head size, V vocabulary.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel
from transformers.generation.continuous_batching import PagedAttentionCache
from transformers.modeling_outputs import CausalLMOutput

from runtime.fusion.layer import FusedLayer, probe_step
from runtime.fusion.modules import FusedNorm, FusedOutput
from runtime.fusion.unusual import PROBE_TOKENS, Unusual, check_same


class FusedModel:
    """Embedding, layers, norm and logits over the paged cache. Without one, the model's own."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Raises Unusual if the model is not what it looks like. After its layers are fused."""
        body = model.base_model
        names = ("embed_tokens", "layers", "norm", "rotary_emb")
        embed, layers, norm, rotary = (getattr(body, name, None) for name in names)
        head = model.get_output_embeddings()
        if not all(isinstance(part, nn.Module) for part in (embed, layers, norm, rotary, head)):
            raise Unusual
        self._layers = [layer.forward for layer in layers]
        self._norm, self._head, self._rotary = norm.forward, head.forward, rotary.forward
        if not all(isinstance(layer, FusedLayer) for layer in self._layers):
            raise Unusual
        if not isinstance(self._norm, FusedNorm) or not isinstance(self._head, FusedOutput):
            raise Unusual
        if type(embed) is not nn.Embedding:
            raise Unusual
        self._original, self._embed = model.forward, embed
        self._compare(model)

    @torch.inference_mode()
    def __call__(
        self,
        input_ids: torch.Tensor | None = None,
        *,
        position_ids: torch.Tensor | None = None,
        cache: PagedAttentionCache | None = None,
        logits_to_keep: torch.Tensor | int = 0,
        **kwargs: Any,  # noqa: ANN401  (what the batching manager passes on to attention)
    ) -> CausalLMOutput:
        """Logits, (1, T or those to keep, V)."""
        if cache is None or not isinstance(logits_to_keep, torch.Tensor):
            if cache is not None:
                kwargs["cache"] = cache
            return self._original(
                input_ids, position_ids=position_ids, logits_to_keep=logits_to_keep, **kwargs
            )
        hidden_1TW = embedding(input_ids, self._embed.weight)
        positions = self._rotary(hidden_1TW, position_ids=position_ids)
        for layer in self._layers:
            hidden_1TW = layer(hidden_1TW, position_embeddings=positions, cache=cache, **kwargs)
        return CausalLMOutput(logits=self._head(self._norm(hidden_1TW[:, logits_to_keep])))

    @torch.inference_mode()
    def _compare(self, model: PreTrainedModel) -> None:
        """With the model's own forward, as a step of requests of one new token each."""
        ids_1T = torch.arange(PROBE_TOKENS)[None] % self._embed.num_embeddings
        kept = torch.tensor([0, PROBE_TOKENS - 1])
        try:
            outputs = [
                forward(
                    input_ids=ids_1T,
                    position_ids=torch.arange(PROBE_TOKENS).flip(0)[None],
                    attention_mask=None,
                    use_cache=False,
                    logits_to_keep=kept,
                    **probe_step([x.attention for x in self._layers], self._embed.weight.dtype),
                ).logits
                for forward in (model.forward, self)
            ]
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
            raise Unusual from error
        check_same(*outputs)
