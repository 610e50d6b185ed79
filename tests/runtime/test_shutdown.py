"""`kprime serve` as an operator runs it: a process that is interrupted."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.runtime.processes import free_port, ray_processes

KPRIME = [sys.executable, "-c", "from commands.main import app; app()"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_server_leaves_no_process_behind(number: signal.Signals) -> None:
    before = ray_processes()
    command = [*KPRIME, "serve", "--replicas", "1", "--port", str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert any("serving at" in line for line in server.stdout)
        assert ray_processes() > before
        server.send_signal(number)
        assert server.wait(timeout=60) == 0
    assert ray_processes() <= before


@pytest.mark.ray
def test_a_checkpoint_that_is_not_moe_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    before = ray_processes()
    checkpoint = tmp_path / "dense"
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(checkpoint)
    shipped = Path("checkpoints/prose-52m/tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=str(shipped)).save_pretrained(checkpoint)
    command = [*KPRIME, "serve", "--checkpoint", str(checkpoint), "--port", str(free_port())]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert "no MoE layer" in ended.stderr
    assert str(checkpoint) in ended.stderr
    assert ray_processes() <= before


def test_a_missing_policy_file_ends_the_start_at_once(tmp_path: Path) -> None:
    command = [*KPRIME, "serve", "--policy-file", str(tmp_path / "none.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert "none.yaml" in ended.stderr
    assert json.dumps(ended.stdout) == '""'
