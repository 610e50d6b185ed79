import random
from types import SimpleNamespace

import pytest
import torch

from controller.signals import Plan
from runtime.elastic import ExpertDial
from runtime.sampling import Sampling
from tests.runtime.tiny import TRAINED_K, VOCAB, Bench, plan, tiny_model


def prompt(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=length)


def unmodified(ids: list[int], max_tokens: int) -> list[int]:
    """What the stock model generates greedily, alone and without continuous batching."""
    generated = tiny_model().generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return generated[0, len(ids) :].tolist()


def test_greedy_output_at_full_k_equals_the_unmodified_models() -> None:
    prompts = {str(n): prompt(n, length) for n, length in enumerate((5, 40, 90, 17, 64))}
    with Bench() as bench:
        for name, ids in prompts.items():
            bench.submit(name, ids, 12)
        bench.wait_for_end(*prompts)
        for name, ids in prompts.items():
            assert bench.tokens(name) == unmodified(ids, 12)


def test_greedy_decoding_chooses_the_same_of_tokens_that_tie() -> None:
    """Broke in bf16, where logits tie by rounding: one of the tied was drawn at random."""
    ids = prompt(1, 10)
    with Bench() as bench:
        with torch.no_grad():  # tokens 2n and 2n + 1 always have the same logit
            bench.model.lm_head.weight[1::2] = bench.model.lm_head.weight[::2]
        for name in ("one", "other"):
            bench.submit(name, ids, 20)
            bench.wait_for_end(name)
        assert bench.tokens("one") == bench.tokens("other")


def test_a_plan_changes_the_output_and_full_k_restores_it() -> None:
    ids = prompt(1, 30)
    with Bench() as bench:
        for name, k in (("before", TRAINED_K), ("cut", 1), ("after", TRAINED_K)):
            bench.engine.apply(plan(bench.engine.plan.epoch + 1, k))
            bench.submit(name, ids, 10)
            bench.wait_for_end(name)
        assert bench.tokens("cut") != bench.tokens("before")
        assert bench.tokens("after") == bench.tokens("before")


def test_a_plan_swapped_in_flight_loses_no_token_and_stamps_each_with_its_epoch() -> None:
    with Bench() as bench:
        for n in range(6):
            bench.submit(str(n), prompt(n, 20 + n), 60)
        for epoch in range(2, 22):
            bench.wait_for_tokens("0", 2 * epoch)
            bench.engine.apply(plan(epoch, 1 + epoch % TRAINED_K))
        bench.wait_for_end(*map(str, range(6)))
        for n in range(6):
            mine = [e for e in bench.emissions if e.request_id == str(n)]
            assert sum(len(e.tokens) for e in mine) == 60
            epochs = [e.plan.epoch for e in mine]
            assert epochs == sorted(epochs)
            assert len(set(epochs)) > 1


def test_every_step_runs_under_the_plan_it_reports() -> None:
    with Bench() as bench:
        widths: list[int] = []
        bench.dial.layers[0].experts.register_forward_pre_hook(
            lambda _module, args: widths.append(args[1].shape[-1])
        )
        for n in range(3):
            bench.submit(str(n), prompt(n, 10), 40)
        for epoch, k in enumerate((1, 3, 2, 4, 1, 2), start=2):
            bench.wait_for_tokens("0", 4 * epoch)
            bench.engine.apply(plan(epoch, k))
        bench.wait_for_end("0", "1", "2")
    assert widths == [step.expert_slots[0] / step.work.tokens for step in bench.steps]
    assert len(set(widths)) == TRAINED_K


def test_steps_account_for_every_prompt_and_output_token() -> None:
    with Bench(max_batch_tokens=16) as bench:
        bench.submit("a", prompt(1, 50), 8)
        bench.submit("b", prompt(2, 1), 5)
        bench.wait_for_end("a", "b")
    assert bench.prefilled == {"a": 50, "b": 1}
    # The first token of each comes with the end of its prefill.
    assert sum(step.work.decode_tokens for step in bench.steps) == (8 - 1) + (5 - 1)
    assert all(step.work.tokens <= 16 for step in bench.steps)


def test_steps_count_the_keys_that_attention_reads() -> None:
    with Bench(max_batch_tokens=16) as bench:
        bench.submit("a", prompt(1, 20), 4)
        bench.wait_for_end("a")
    keys = [(step.work.prefill_keys, step.work.decode_keys) for step in bench.steps]
    # Sixteen tokens that read 1 .. 16, four that read 17 .. 20, then one each.
    assert keys == [(136, 0), (74, 0), (0, 21), (0, 22), (0, 23)]


def test_a_cancelled_request_emits_nothing_more_and_others_finish() -> None:
    with Bench() as bench:
        bench.submit("gone", prompt(1, 20), 400)
        bench.submit("stays", prompt(2, 20), 30)
        bench.wait_for_tokens("gone", 3)
        bench.engine.cancel("gone")
        bench.wait_for_end("stays")
        count = len(bench.tokens("gone"))  # "stays" has run far beyond the step that was running
        bench.submit("later", prompt(3, 20), 30)
        bench.wait_for_end("later")
        assert len(bench.tokens("gone")) == count < 400


def test_sampling_at_temperature_one_differs_from_greedy() -> None:
    with Bench() as bench:
        bench.submit("greedy", prompt(1, 20), 40)
        bench.engine.submit("warm", prompt(1, 20), 40, Sampling(temperature=2.0), None)
        bench.wait_for_end("greedy", "warm")
        assert bench.tokens("warm") != bench.tokens("greedy")
        assert set(bench.tokens("warm")) <= set(range(VOCAB))


def test_generation_ends_at_the_end_of_text_token() -> None:
    ids = prompt(1, 20)
    end = unmodified(ids, 8)[3]
    first = unmodified(ids, 8).index(end)
    with Bench() as bench:
        bench.engine.submit("a", ids, 8, Sampling(temperature=0), end)
        bench.wait_for_end("a")
        assert bench.tokens("a") == unmodified(ids, 8)[: first + 1]


def test_a_plan_the_model_cannot_run_is_refused_and_changes_nothing() -> None:
    with Bench() as bench:
        with pytest.raises(ValueError, match=r"is not in 1\.\.8"):
            bench.engine.apply(plan(9, 9))
        assert bench.engine.plan == plan(1, TRAINED_K)
        assert bench.dial.plan == (TRAINED_K,) * 2


def test_a_step_that_fails_fails_its_requests_and_is_reported() -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("out of memory")

    with Bench() as bench:
        assert bench.engine.failure is None
        bench.model.register_forward_pre_hook(explode)
        bench.submit("a", prompt(1, 20), 8)
        bench.wait_for_end("a")
        assert "out of memory" in (bench.emissions[-1].error or "")
        bench.engine._manager.join(0.0)
        assert "out of memory" in (bench.engine.failure or "")
        with pytest.raises(RuntimeError, match="out of memory"):
            bench.submit("b", prompt(1, 20), 8)


CLASSES = {"interactive": (3, 4), "batch": (1, 2)}


def in_class(slo_class: str | None, ids: list[int]) -> list[int]:
    """What a request of the class gets with the engine for itself."""
    k = (2, 2) if slo_class is None else CLASSES[slo_class]
    with Bench() as bench:
        bench.engine.apply(Plan(2, k, 1.0))
        bench.submit("alone", ids, 20)
        bench.wait_for_end("alone")
        return bench.tokens("alone")


def test_classes_that_share_every_step_get_what_each_gets_alone_at_its_own_k() -> None:
    requests = {
        f"{slo_class} {n}": (slo_class, prompt(7 * n, 12 + 9 * n))
        for n in range(3)
        for slo_class in ("interactive", "batch", None)
    }
    alone = {name: in_class(*request) for name, request in requests.items()}
    assert alone["interactive 0"] != in_class("batch", requests["interactive 0"][1])
    with Bench(max_batch_tokens=24) as bench:
        bench.engine.apply(Plan(2, (2, 2), 1.0, class_k=CLASSES))
        for name, (slo_class, ids) in requests.items():
            bench.submit(name, ids, 20, slo_class)
        bench.wait_for_end(*requests)
        assert {name: bench.tokens(name) for name in requests} == alone
        assert any(step.work.decode_tokens >= 6 for step in bench.steps)


def test_a_class_that_the_plan_does_not_name_runs_at_the_k_of_all_others() -> None:
    ids = prompt(3, 30)
    with Bench() as bench:
        bench.engine.apply(Plan(2, (2, 2), 1.0, class_k={"batch": (1, 1)}))
        bench.submit("unnamed", ids, 20, "interactive")
        bench.wait_for_end("unnamed")
        assert bench.tokens("unnamed") == in_class(None, ids)


def test_a_plan_without_classes_brings_all_requests_back_to_one_k() -> None:
    ids = prompt(4, 30)
    with Bench() as bench:
        bench.engine.apply(Plan(2, (2, 2), 1.0, class_k=CLASSES))
        for name, slo_class in (("one", "batch"), ("other", None)):
            bench.submit(name, prompt(5, 20), 10, slo_class)
        bench.wait_for_end("one", "other")
        bench.engine.apply(Plan(3, (2, 2), 1.0))
        bench.submit("after", ids, 20, "batch")
        bench.wait_for_end("after")
        assert bench.tokens("after") == in_class(None, ids)


def test_a_class_plan_the_model_cannot_run_is_refused_and_changes_nothing() -> None:
    with Bench() as bench:
        with pytest.raises(ValueError, match=r"layers\.1\.mlp: k'=9 is not in 1\.\.8"):
            bench.engine.apply(Plan(2, (2, 2), 1.0, class_k={"batch": (1, 9)}))
        assert bench.engine.plan == plan(1, TRAINED_K)


def test_every_step_says_how_many_experts_it_ran_by_layer() -> None:
    with Bench() as bench:
        bench.engine.apply(Plan(2, (1, 3), 1.0))
        bench.submit("a", prompt(1, 20), 10)
        bench.wait_for_end("a")
        alone = [step for step in bench.steps if step.work.decode_tokens == 1]
        assert {step.distinct_experts for step in alone} == {(1, 3)}
        assert bench.steps[0].expert_slots == (20, 60)
        whole = bench.steps[0].distinct_experts
        assert all(k <= distinct <= 8 for k, distinct in zip((1, 3), whole, strict=True))
        use = bench.engine.expert_use()
        assert use is not None
        assert min(use.worst_load) >= 1.0
        assert bench.engine.expert_use() is None  # taken


def test_a_cap_holds_in_steps_that_decode_and_leaves_prompts_alone() -> None:
    with Bench(max_batch_tokens=64) as bench:
        bench.engine.apply(Plan(2, (4, 4), 1.0, expert_cap=(2, 3)))
        for n in range(6):
            bench.submit(str(n), prompt(n, 20), 30)
        bench.wait_for_end(*map(str, range(6)))
        decodes = [step.distinct_experts for step in bench.steps if step.work.prefill_tokens == 0]
        prefills = [step.distinct_experts for step in bench.steps if step.work.prefill_tokens >= 40]
    # Each token's own best may come on top of the cap.
    assert len(decodes) > 20
    assert sum(first for first, _ in decodes) / len(decodes) < 5
    assert all(first <= 2 + 6 and second <= 3 + 6 for first, second in decodes)
    assert min(min(each) for each in prefills) >= 7


def test_a_cap_that_never_binds_changes_nothing() -> None:
    ids = prompt(6, 30)
    with Bench() as bench:
        bench.engine.apply(Plan(2, (2, 2), 1.0, expert_cap=(8, 8)))
        bench.submit("capped", ids, 20)
        bench.wait_for_end("capped")
        assert bench.tokens("capped") == in_class(None, ids)


def test_what_delays_the_next_step_counts_as_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had counted for no step: live, a millisecond of each that made a token."""
    clock = iter(range(1000))
    by_hand = SimpleNamespace(perf_counter=lambda: float(next(clock)))
    monkeypatch.setattr("runtime.stepped.time", by_hand)
    with Bench() as bench:
        bench.submit("a", prompt(1, 10), 5)
        bench.wait_for_end("a")
    # The clock is asked where a step begins after a wait, and where one ends.
    assert [step.duration_s for step in bench.steps] == [1.0] * 5


def phased(dial: ExpertDial, ids: list[int], tokens: int, prefill_k: int, k: int) -> list[int]:
    """Greedy tokens of a model whose prompt, its last token excepted, runs at a k' of its own."""
    answer = list[int]()
    with torch.inference_mode():
        for _ in range(tokens):
            row = torch.tensor([ids + answer])
            choice_T = (torch.arange(row.shape[1]) >= len(ids) - 1).long()
            dial.set_by_token([(prefill_k, prefill_k), (k, k)], choice_T)
            answer.append(int(dial.model(row).logits[0, -1].argmax()))
    return answer


def test_prompts_run_at_their_own_k_and_what_makes_tokens_at_that_of_answers() -> None:
    prompts = {f"{n}": prompt(7 * n + 1, 12 + 9 * n) for n in range(3)}
    with Bench(max_batch_tokens=24) as bench:
        bench.engine.apply(Plan(2, (4, 4), 1.0, prefill_k=(1, 1)))
        for name, ids in prompts.items():
            bench.submit(name, ids, 20)
        bench.wait_for_end(*prompts)
        assert any(step.work.decode_tokens and step.work.prefill_tokens for step in bench.steps)
        slots = {
            step.expert_slots
            for step in bench.steps
            if (step.work.prefill_tokens, step.work.decode_tokens) == (24, 0)
        }
    # A whole chunk of one prompt, or one in which another's last token makes its answer's first.
    assert slots and slots <= {(24, 24), (24 + 3, 24 + 3)}
    # Once the engine has stopped, the model may be called by itself.
    expected = {name: phased(bench.dial, ids, 20, 1, 4) for name, ids in prompts.items()}
    assert {name: bench.tokens(name) for name in prompts} == expected
    assert expected["2"] != phased(bench.dial, prompts["2"], 20, 4, 4)


def test_where_all_tokens_of_a_step_run_at_one_k_routers_rank_no_more() -> None:
    with Bench(max_batch_tokens=16) as bench:
        widths: list[int] = []
        bench.dial.layers[0].experts.register_forward_pre_hook(
            lambda _module, args: widths.append(args[1].shape[-1])
        )
        bench.engine.apply(Plan(2, (4, 4), 1.0, prefill_k=(1, 1)))
        bench.submit("a", prompt(1, 40), 4)
        bench.wait_for_end("a")
    assert widths == [1, 1, 4, 4, 4, 4]  # two whole chunks, the end of the prompt, three tokens


def test_a_ceiling_of_prompts_does_not_lift_a_class_below_it() -> None:
    ids = prompt(3, 30)
    with Bench() as bench:
        plan = Plan(2, (4, 4), 1.0, class_k={"batch": (1, 2)}, prefill_k=(2, 2))
        bench.engine.apply(plan)
        bench.submit("low", ids, 20, "batch")
        bench.wait_for_end("low")
        assert bench.tokens("low") == in_class("batch", ids)


def test_prompts_that_the_model_cannot_run_are_refused_and_change_nothing() -> None:
    with Bench() as bench:
        with pytest.raises(ValueError, match=r"k'=9 is not in 1\.\.8"):
            bench.engine.apply(Plan(2, (2, 2), 1.0, prefill_k=(2, 9)))
        assert bench.engine.plan == plan(1, TRAINED_K)
