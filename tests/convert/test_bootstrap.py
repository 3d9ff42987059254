"""Confidence intervals: what is drawn, how often it counts, and how wide that makes them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from convert import bootstrap
from convert.bootstrap import intervals, resample_people


def all_weights(*arguments: list[str], resamples: int = 50) -> np.ndarray:
    return np.concatenate(list(resample_people(*arguments, resamples=resamples, seed=1)))


def test_a_search_counts_as_often_as_its_person_was_drawn() -> None:
    weights = all_weights(["a", "a", "b", "c"])
    assert weights.shape == (50, 4)
    assert (weights[:, 0] == weights[:, 1]).all()
    # Three people are drawn each time.
    assert (weights[:, 1:].sum(axis=1) == 3).all()


def test_a_pair_counts_as_often_as_its_people_were_drawn() -> None:
    weights = all_weights(["a", "b", "a"], ["a", "b", "b"])
    same_a, same_b, mixed = weights.T
    assert (same_a + same_b == 2).all()
    assert (mixed == same_a * same_b).all()
    assert set(mixed) == {0.0, 1.0}


def test_the_same_seed_draws_the_same_people_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    people = [f"p{number}" for number in range(40)]
    at_once = all_weights(people)
    monkeypatch.setattr(bootstrap, "_BLOCK", 300)
    blocks = list(resample_people(people, resamples=50, seed=1))
    assert [len(block) for block in blocks] == [7] * 7 + [1]
    assert (np.concatenate(blocks) == at_once).all()


def test_the_interval_of_a_share_is_as_wide_as_the_binomial_says() -> None:
    hits = np.arange(400) < 80
    people = [str(number) for number in range(400)]
    found = intervals(resample_people(people), lambda weights: {"share": (weights * hits).mean(axis=1)})
    error = 1.96 * math.sqrt(0.2 * 0.8 / 400)
    assert found["share"] == pytest.approx((0.2 - error, 0.2 + error), abs=0.006)


def test_many_searches_of_few_people_say_little() -> None:
    hits = np.arange(400) < 80
    people = [str(number // 40) for number in range(400)]
    low, high = intervals(resample_people(people), lambda weights: {"x": (weights * hits).mean(axis=1)})["x"]
    assert (low, high) == pytest.approx((0.0, 0.5), abs=0.11)


def test_a_figure_that_is_not_defined_has_no_interval() -> None:
    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        nothing = np.full(len(weights), np.nan)
        return {"never": nothing, "seldom": np.where(np.arange(len(weights)) == 0, 0.25, nothing)}

    assert intervals(resample_people(["a"]), figures) == {"seldom": (0.25, 0.25)}
