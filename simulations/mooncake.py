"""Writes a schedule as Mooncake JSON lines, for other load generators to replay as it is.

Takes requests, writes a file. AIPerf (`--custom-dataset-type mooncake_trace --fixed-schedule`)
reads the timestamps as milliseconds; GuideLLM (`kind=mooncake`) takes them for seconds and needs
`time_scale=0.001`. The format has no SLO classes.
"""

import json
from math import ceil
from pathlib import Path

from simulations.schedule import Requests

BLOCK_TOKENS = 512  # of prompt that one hash id stands for, in Mooncake and by the tools' defaults


def write_mooncake(path: Path, requests: Requests) -> None:
    """One line a request, the first at 0 ms: AIPerf waits for a later first one, GuideLLM not."""
    first_s = requests[0].arrival_s
    first_block = 0
    with path.open("w", encoding="utf-8") as file:
        for request in requests:
            # GuideLLM wants exactly as many ids as the prompt has blocks. None is used twice, for
            # equal ones are a shared prefix, which a server's cache would answer.
            end_block = first_block + ceil(request.input_tokens / BLOCK_TOKENS)
            line = {
                "timestamp": round((request.arrival_s - first_s) * 1e3),
                "input_length": request.input_tokens,
                "output_length": request.output_tokens,
                "hash_ids": list(range(first_block, end_block)),
            }
            file.write(json.dumps(line) + "\n")
            first_block = end_block
