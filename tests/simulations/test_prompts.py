"""Prompts are stretches of the text and never longer than asked."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from simulations.prompts import Prompts

TEXT = "The naïve café — “Où est le thé?” she said, — 東京 and 🦊 and so on; then nothing. " * 20


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>"],
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.enable_truncation(8)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture
def prompts(tokenizer_file: Path) -> Prompts:
    return Prompts(TEXT, tokenizer_file)


def test_tokenises_all_of_the_text_in_spite_of_stored_truncation(prompts: Prompts) -> None:
    assert prompts.num_tokens > 400


def test_tells_what_a_server_adds(prompts: Prompts) -> None:
    assert prompts.num_special_tokens == 1


@pytest.mark.parametrize("num_tokens", [1, 2, 5, 60])
def test_a_prompt_is_real_text_and_never_longer_than_asked(
    prompts: Prompts, tokenizer_file: Path, num_tokens: int
) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    lengths = []
    rng = np.random.default_rng(0)
    for _ in range(200):
        prompt = prompts.cut(num_tokens, rng)
        assert prompt
        assert prompt in TEXT
        lengths.append(len(tokenizer.encode(prompt, add_special_tokens=False)))
    assert max(lengths) == num_tokens
    assert sum(lengths) > 0.9 * num_tokens * len(lengths)


def test_the_seed_decides(prompts: Prompts) -> None:
    first = [prompts.cut(20, np.random.default_rng(7)) for _ in range(2)]
    assert first[0] == first[1]
    assert prompts.cut(20, np.random.default_rng(8)) != first[0]


@pytest.mark.parametrize("num_tokens", [0, 100_000])
def test_refuses_what_the_text_cannot_give(prompts: Prompts, num_tokens: int) -> None:
    with pytest.raises(ValueError, match=f"a prompt of {num_tokens} tokens cannot be cut"):
        prompts.cut(num_tokens, np.random.default_rng(0))


def test_refuses_a_text_with_nothing_that_short(tokenizer_file: Path) -> None:
    fragments = Prompts("🐙🦑🦀" * 20, tokenizer_file)
    with pytest.raises(ValueError, match="no stretch"):
        fragments.cut(1, np.random.default_rng(0))
