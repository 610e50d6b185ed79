"""A completion request's prompt as token ids, if the model can answer it."""

from runtime.checkpoint import Checkpoint
from runtime.openai_api import ApiError, CompletionRequest


def prompt_ids(request: CompletionRequest, checkpoint: Checkpoint) -> list[int]:
    """Raises ApiError for an unknown model and for what does not fit the context."""
    if request.model != checkpoint.name:
        raise ApiError(
            404,
            f"model {request.model!r} does not exist; served: {checkpoint.name}",
            param="model",
            code="model_not_found",
        )
    ids, tokenizer = request.prompt, checkpoint.tokenizer
    if isinstance(ids, str):
        ids = tokenizer.encode(ids)
    if not ids or max(ids) >= len(tokenizer):
        message = f"prompt: needs at least one token, and ids below {len(tokenizer)}"
        raise ApiError(400, message, param="prompt")
    needed, context = len(ids) + request.max_tokens, checkpoint.context_tokens
    if needed > context:
        raise ApiError(
            400,
            f"the context is {context} tokens; prompt ({len(ids)}) and max_tokens "
            f"({request.max_tokens}) need {needed}",
            param="prompt",
            code="context_length_exceeded",
        )
    return ids
