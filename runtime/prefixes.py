"""Which requests may share the cached keys and values of a prompt's beginning.

Blocks are found again by a hash of their tokens. Mixed into it here is the SLO class of the
request, so that a class never reads what was computed under another's quality floor. Within a class
blocks are shared whatever the plan was when they were filled: what that does to quality was
measured, and is next to nothing (docs/elastic-experts.md).
"""

from collections.abc import Callable

from transformers.generation.continuous_batching import PagedAttentionCache


def keep_classes_apart(
    cache: PagedAttentionCache, salt_of: Callable[[str], int], vocab_size: int
) -> None:
    """`salt_of(request_id)` is a number from 0 up; requests share prefixes only at the same one."""

    def salted(request_id: str, ids: list[int]) -> list[int]:
        # The hash of a block contains its parent's: the first token salts all that follow.
        return [ids[0] + salt_of(request_id) * vocab_size, *ids[1:]] if ids else ids

    search = cache.search_prefix_match
    cache.search_prefix_match = lambda request_id, ids: search(request_id, salted(request_id, ids))
    for allocator in cache.cache_allocators.values():

        def mark(
            request_id: str,
            ids: list[int],
            num_blocks: int,
            mark: Callable[[str, list[int], int], None] = allocator.mark_complete_blocks,
        ) -> None:
            mark(request_id, salted(request_id, ids), num_blocks)

        allocator.mark_complete_blocks = mark
