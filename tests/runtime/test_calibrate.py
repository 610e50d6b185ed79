"""A whole calibration of a tiny model: what comes of it, of an interrupt, of noise."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3MoeForCausalLM

from controller.profiles import Interval, Profile, load_profile, write_profile
from runtime.calibrate import TooNoisyError, calibrate, single_layers
from runtime.checkpoint import load_checkpoint
from runtime.evaluate import TextError, Windows, cut_windows, read_documents
from runtime.ledger import Ledger
from runtime.measurements import CHOOSING, MEASURING, Measurements
from runtime.rescale import rescale
from tests.runtime.tiny import tiny_model

KS = [1, 2, 4, 8]
SHIPPED = Path("checkpoints/prose-52m")
TEXT = (SHIPPED / "validation.txt").read_text()[:60_000]

Stage = Callable[[str, int], Callable[[], object]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with the shipped tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    model = tiny_model()
    model.config.vocab_size = 4096
    Qwen3MoeForCausalLM(model.config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SHIPPED / name, folder)
    return folder


def no_stage(_name: str, _total: int) -> Callable[[], object]:
    return lambda: None


def measurements(folder: Path, path: Path, on_stage: Stage = no_stage) -> Measurements:
    torch.set_num_threads(1)
    loaded = load_checkpoint(folder)
    windows = cut_windows(read_documents(loaded, TEXT), window=96, limit=18)
    choosing, measuring = windows.split(3)
    ledger = Ledger(path, {"k": KS})
    return Measurements(
        loaded,
        {CHOOSING: choosing, MEASURING: measuring},
        ledger,
        threads=1,
        max_batch_tokens=48,
        on_stage=on_stage,
    )


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    path = tmp_path_factory.mktemp("made") / "profile.partial"
    return calibrate(measurements(folder, path), KS, repeats=2, noise_bound=10.0)


def test_the_ladder_goes_from_the_cheapest_plan_past_full_k(made: Profile) -> None:
    assert made.rungs[0].plan == (1, 1)
    assert made.full.plan == (4, 4)
    assert made.full.quality == made.full.quality_low == made.full.quality_high == 1.0
    assert made.full.agreement.mean > 0.9  # in bf16 ties are broken another way in another batch
    assert made.rungs[0].agreement.mean < made.full.agreement.mean
    costs = [made.step_time.request_s(rung.plan, 512, 64, 48) for rung in made.rungs]
    assert costs == sorted(costs)


def test_every_rung_says_what_answers_keep_after_prompts_at_it(made: Profile) -> None:
    kept = {rung.plan: rung.prefill for rung in made.rungs}
    assert all(kept.values())
    assert kept[4, 4] == Interval(mean=1.0, low=1.0, high=1.0)
    assert kept[1, 1] != kept[4, 4]


def test_every_way_of_measuring_sensitivity_is_in_the_profile(made: Profile) -> None:
    sensitivity = made.sensitivity
    assert list(sensitivity.losses) == ["alone", "isolated", "data-free"]
    for by_layer in sensitivity.losses.values():
        assert [len(by_k) for by_k in by_layer] == [len(KS), len(KS)]
        assert [by_k[KS.index(4)] for by_k in by_layer] == [0.0, 0.0]
    assert set(sensitivity.rank_correlation) == {
        "alone, isolated",
        "alone, data-free",
        "isolated, data-free",
    }
    assert {(plan.method, plan.uniform_k) for plan in sensitivity.plans} == {
        (way, 2) for way in sensitivity.losses
    }


def test_headroom_was_timed_at_every_batch_and_prompt_size(made: Profile) -> None:
    assert [each.tokens for each in made.headroom.by_decode_batch] == [1, 2, 4, 8]
    assert [each.tokens for each in made.headroom.by_prefill_tokens] == [3, 6, 12, 24, 36, 48]
    assert made.headroom.prefill == made.headroom.by_prefill_tokens[-1].ratio
    assert made.fit.points_held_out > 0


def test_a_profile_survives_being_written(made: Profile, tmp_path: Path) -> None:
    write_profile(made, tmp_path / "profile.json")
    assert load_profile(tmp_path / "profile.json") == made


class _Interrupt:
    """Ctrl-C at a measurement of a stage, counted; keeps the names of those begun."""

    def __init__(self, at: str, count: int) -> None:
        self._at, self._left = at, count
        self.begun: list[str] = []

    def __call__(self, name: str, _total: int) -> Callable[[], object]:
        self.begun.append(name)
        return self._count if name == self._at else lambda: None

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


def test_interrupted_it_goes_on_where_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "profile.partial"
    interrupt = _Interrupt("layers", 5)
    with pytest.raises(KeyboardInterrupt):
        calibrate(measurements(folder, path, interrupt), KS, repeats=2, noise_bound=10.0)
    assert interrupt.begun == ["step time, plans to fit", "layers"]
    again = measurements(folder, path)
    assert again.ledger.resumed == 2 + 5  # rounds of step times, plans
    timed: list[str] = []
    monkeypatch.setattr(
        "runtime.measurements.time_round",
        lambda bench, plans, number: timed.append("round") or _real_round(bench, plans, number),
    )
    finished = calibrate(again, KS, repeats=2, noise_bound=10.0)
    assert timed == ["round", "round"]  # of the rungs alone
    assert finished.rungs[0].plan == (1, 1)


def _real_round(*arguments: object) -> object:
    from runtime.step_times import time_round

    return time_round(*arguments)  # type: ignore[arg-type]


def test_on_a_machine_too_noisy_nothing_comes_of_it_and_only_timing_is_done_again(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "profile.partial"
    with pytest.raises(TooNoisyError, match=r"too noisy to fit: .*\(bound 0%\)"):
        calibrate(measurements(folder, path), KS, repeats=2, noise_bound=0.0)
    kept = path.read_text()
    assert "quality measuring 1 1" in kept
    assert "steps" not in kept


def test_the_trained_k_has_to_be_measured(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the trained k \(4\) must be among"):
        calibrate(measurements(folder, tmp_path / "p"), [1, 2], repeats=2, noise_bound=1.0)


def test_layers_are_timed_alone_but_not_all_of_very_many() -> None:
    assert single_layers((4, 4), 1) == [(1, 4), (4, 1)]
    forty = single_layers((4,) * 40, 2)
    assert [plan.index(2) for plan in forty] == [0, 13, 26, 39]
    assert single_layers((4,), 1) == [(1,)]


def test_rescaled_a_profile_keeps_quality_and_says_where_it_is_from(
    made: Profile, folder: Path
) -> None:
    abacus = made.machine.model_copy(update={"cpu": "abacus"})
    elsewhere = made.model_copy(update={"machine": abacus})
    loaded = load_checkpoint(folder)
    ids = loaded.tokenizer(TEXT)["input_ids"]
    here = rescale(elsewhere, loaded, ids, threads=1, probe_s=0.0)
    assert here.rescaled is not None
    assert here.rescaled.measured_on == abacus
    assert here.machine == made.machine
    assert 0.2 < here.rescaled.ratio < 5.0  # of what is really the same machine
    assert (here.rungs, here.sensitivity) == (made.rungs, made.sensitivity)
    again = rescale(here, loaded, ids, threads=1, probe_s=0.0)
    assert again.rescaled is not None
    assert again.rescaled.measured_on == abacus


def test_windows_that_choose_measure_nothing() -> None:
    ids = np.random.default_rng(0).integers(0, 128, (7, 40)).tolist()
    whole = Windows(ids, np.arange(7), num_bytes=273)
    choosing, measuring = whole.split(3)
    assert choosing.ids == [whole.ids[2], whole.ids[5]]
    assert choosing.documents_W.tolist() == [2, 5]
    assert measuring.documents_W.tolist() == [0, 1, 3, 4, 6]
    assert choosing.num_bytes + measuring.num_bytes == 273
    with pytest.raises(TextError, match="7 windows; 8 or more are needed"):
        whole.split(8)
