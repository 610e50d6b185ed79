"""Which denominator the kept experts' weights should have when k' is not the trained k.

A router that renormalises divides the probabilities of the k' it selected by their sum S(k'). Here
the weights are multiplied by (S(k') / S(k))^share instead: share 0 is that trained rule, share 1
divides by the sum over the trained top k whatever k' is (arXiv 2609.04575), 1/2 lies between (the
square-root blend). At k' = k all are the same.

    python -m benchmarks.renormalisation --checkpoint D [--checkpoint E] [--text F] [--windows 200]
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from runtime.bootstrap import Tally, difference
from runtime.checkpoint import Checkpoint, load_checkpoint
from runtime.denominator import AboveK
from runtime.evaluate import Windows, cut_windows, evaluate, read_documents

KS = (1, 2, 4, 8, 12, 16, 24)
RULES = {"trained rule": 0.0, "square-root blend": 0.5, "anchored at top k": 1.0}
OTHERS = [rule for rule in RULES if rule != "trained rule"]
WINDOW_TOKENS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, action="append", required=True)
    parser.add_argument("--text", type=Path, help="default test.txt of the checkpoint")
    parser.add_argument("--windows", type=int, default=200)
    options = parser.parse_args()
    for folder in options.checkpoint:
        checkpoint = load_checkpoint(folder, AboveK.RENORMALISED)
        text = (options.text or folder / "test.txt").read_text()
        windows = cut_windows(read_documents(checkpoint, text), WINDOW_TOKENS, options.windows)
        full = evaluate(checkpoint, windows, checkpoint.dial.trained_plan).nll
        nll = {k: _by_rule(checkpoint, windows, k) for k in track(KS, str(folder))}
        title = f"{folder}: NLL, nats/token"
        by_rule = Table(
            "k'", "trained rule", *OTHERS, title=f"{title}; others less the trained rule"
        )
        over_full = Table("k'", *RULES, title=f"{title}, less {full.mean:.4f} at the trained k")
        for k, by in nll.items():
            trained = by["trained rule"]
            changes = [f"{difference(by[rule], trained):+.4f}" for rule in OTHERS]
            by_rule.add_row(str(k), f"{trained.mean:.4f}", *changes)
            over_full.add_row(str(k), *(f"{difference(by[rule], full):+.4f}" for rule in RULES))
        Console(width=120).print(by_rule, over_full)


def _by_rule(checkpoint: Checkpoint, windows: Windows, k: int) -> dict[str, Tally]:
    tallies = {}
    for rule, share in RULES.items():
        with denominator(checkpoint, share):
            plan = [k] * len(checkpoint.dial.layers)
            tallies[rule] = evaluate(checkpoint, windows, plan).nll
    return tallies


@contextmanager
def denominator(checkpoint: Checkpoint, share: float) -> Iterator[None]:
    """Every layer's weights under the rule. The router must renormalise by itself and give logits.

    Shapes: T tokens, E experts, K selected.
    """
    with ExitStack() as hooks:
        for layer, trained_k in zip(
            checkpoint.dial.layers, checkpoint.dial.trained_plan, strict=True
        ):
            factor_T1: list[torch.Tensor] = []

            def keep(
                router: nn.Module,
                _args: object,
                output: tuple[torch.Tensor, ...],
                trained_k: int = trained_k,
                factor_T1: list[torch.Tensor] = factor_T1,
            ) -> None:
                ranked_TE = output[0].float().softmax(-1).sort(-1, descending=True).values
                selected_T1 = ranked_TE[:, : router.top_k].sum(-1, keepdim=True)
                trained_T1 = ranked_TE[:, :trained_k].sum(-1, keepdim=True)
                factor_T1[:] = [(selected_T1 / trained_T1) ** share]

            def scale(
                _experts: nn.Module,
                args: tuple[torch.Tensor, ...],
                factor_T1: list[torch.Tensor] = factor_T1,
            ) -> tuple[torch.Tensor, ...]:
                hidden_TD, index_TK, weight_TK = args
                return hidden_TD, index_TK, (weight_TK * factor_T1[0]).to(weight_TK.dtype)

            for handle in (
                layer.router.register_forward_hook(keep),
                layer.experts.register_forward_pre_hook(scale),
            ):
                hooks.callback(handle.remove)
        yield


if __name__ == "__main__":
    main()
