"""Every row of a step is drawn by its own request's settings."""

from types import SimpleNamespace

import pytest
import torch

from runtime.sampling import Nucleus, Sampling, draw, processors

PROBABILITIES = torch.tensor([0.05, 0.5, 0.15, 0.3])


def processed(
    scores_BV: torch.Tensor, *choices: Sampling, nucleus: Nucleus | None = None
) -> torch.Tensor:
    """The scores of one row a choice, as the batching manager has them processed."""
    nucleus = nucleus or Nucleus()
    by_request = processors(nucleus)
    requests = [
        SimpleNamespace(
            has_new_token=True,
            state=SimpleNamespace(logit_processor_kwargs=choice.arguments()),
        )
        for choice in choices
    ]
    storage = torch.zeros(by_request.tensors_required, len(choices), dtype=torch.int32)
    by_request.fill_defaults(storage)
    arguments = by_request.prepare_tensor_args(requests, storage)
    return by_request(torch.zeros(len(choices), dtype=torch.long), scores_BV, arguments)


def kept(scores_V: torch.Tensor) -> list[int]:
    return (scores_V > -torch.inf).nonzero().flatten().tolist()


def test_rows_follow_their_own_settings() -> None:
    scores_BV = PROBABILITIES.log().repeat(4, 1)
    ours_BV = processed(
        scores_BV, Sampling(0), Sampling(1.0, 0.7), Sampling(), Sampling(temperature=0.5)
    )
    assert [kept(row) for row in ours_BV] == [[1], [1, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert torch.equal(ours_BV[2], scores_BV[2])
    assert torch.allclose(ours_BV[3], 2 * scores_BV[3])


@pytest.mark.parametrize(
    ("top_p", "tokens"),
    [(0.01, [1]), (0.49, [1]), (0.51, [1, 3]), (0.79, [1, 3]), (0.81, [1, 2, 3]), (0.99, 4)],
)
def test_a_nucleus_is_the_fewest_best_tokens_that_reach_its_probability(
    top_p: float, tokens: list[int] | int
) -> None:
    (ours_V,) = processed(PROBABILITIES.log()[None], Sampling(1.0, top_p))
    assert kept(ours_V) == (tokens if isinstance(tokens, list) else [0, 1, 2, 3])
    assert torch.allclose(ours_V[1], PROBABILITIES[1].log())  # what is kept keeps its score


def test_greedy_is_the_first_of_equals_alone_and_beside_others() -> None:
    tied_BV = torch.tensor([[1.0, 3.0, 3.0, 2.0]]).repeat(2, 1)
    assert kept(processed(tied_BV, Sampling(0), Sampling())[0]) == [1]
    nucleus = Nucleus()
    scores_BV = processed(tied_BV, Sampling(0), Sampling(0), nucleus=nucleus)
    assert draw(scores_BV, nucleus.all_greedy).tolist() == [1, 1]


def test_draws_follow_the_probabilities() -> None:
    torch.manual_seed(0)
    nucleus = Nucleus()
    scores_BV = PROBABILITIES.log().repeat(20_000, 1)
    scores_BV = processed(scores_BV, *[Sampling(1.0, 0.7)] * len(scores_BV), nucleus=nucleus)
    drawn = torch.bincount(draw(scores_BV, nucleus.all_greedy), minlength=4) / len(scores_BV)
    assert torch.allclose(drawn, torch.tensor([0.0, 0.5 / 0.8, 0.0, 0.3 / 0.8]), atol=0.02)


def test_the_scores_handed_in_are_left_as_they_were() -> None:
    scores_BV = PROBABILITIES.log().repeat(2, 1)
    before_BV = scores_BV.clone()
    processed(scores_BV, Sampling(0), Sampling(1.0, 0.5))
    assert torch.equal(scores_BV, before_BV)


def test_without_settings_of_its_own_a_request_is_drawn_from_all() -> None:
    storage = torch.zeros(3, dtype=torch.int32)
    nucleus = Nucleus()
    nucleus.fill_defaults(storage)
    scores_BV = torch.randn(3, 5)
    assert torch.equal(nucleus(scores_BV, storage), scores_BV)
