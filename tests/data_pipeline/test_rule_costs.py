"""What rules cost and reject, and the order that costs least, from columns of scores and timings."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipeline.policy import Rule
from data_pipeline.rule_costs import RuleCost, cheapest_order, costs_text, measure


def cost(reason: str, *, signal: str, milliseconds: float, rejects: float) -> RuleCost:
    found = measure(
        reason,
        Rule(score="value", below=rejects),
        {"value": (np.arange(1000) + 0.5) / 1000},
        signal=signal,
        spent={signal: np.full(1000, milliseconds)},
    )
    assert found.rejected_share == pytest.approx(rejects)
    return found


def test_a_rule_is_judged_on_the_clips_that_have_its_score() -> None:
    scores = {"value": np.array([0.1, 0.9, np.nan, 0.2])}
    spent = {"text": np.array([50.0, 70.0, np.nan, 90.0])}
    found = measure("low", Rule(score="value", below=0.5), scores, signal="text", spent=spent)
    assert (found.judged, found.cpu_milliseconds) == (3, 70.0)
    assert found.rejected_share == pytest.approx(2 / 3, abs=1e-6)
    assert found.cpu_milliseconds_per_rejection == 105.0
    assert measure("low", Rule(score="other", below=0.5), scores, signal="", spent=spent).judged == 0


def test_the_pass_comes_first_then_the_closer_looks_by_what_a_rejection_costs() -> None:
    rules = [
        cost("written", signal="text", milliseconds=100, rejects=0.1),
        cost("ugly", signal="aesthetics", milliseconds=200, rejects=0.5),
        cost("dark", signal="exposure", milliseconds=1, rejects=0.0),
    ]
    assert cheapest_order(rules) == ["dark", "ugly", "written"]


def test_that_order_costs_least_of_all_orders() -> None:
    """Expected cost of independent filters: each is paid by what the ones before it let pass."""
    from itertools import permutations

    random = np.random.default_rng(4)
    for _ in range(20):
        rules = {
            name: cost(name, signal="text", milliseconds=random.uniform(1, 300), rejects=round(random.uniform(0, 1), 3))
            for name in "abcd"
        }

        def expected(order: tuple[str, ...], rules: dict[str, RuleCost] = rules) -> float:
            reaching, total = 1.0, 0.0
            for name in order:
                total += reaching * rules[name].cpu_milliseconds
                reaching *= 1 - rules[name].rejected_share
            return total

        best = min(expected(order) for order in permutations(rules))
        assert expected(tuple(cheapest_order(list(rules.values())))) == pytest.approx(best, rel=1e-3)


def test_the_table_names_every_rule() -> None:
    found = cost("written", signal="text", milliseconds=100, rejects=0.1)
    text = costs_text({"rules": [vars(found)], "cheapest_order": ["written"], "look_order": {}})
    assert "written" in text
    assert "1000.0" in text
    assert "order of looks: not fixed" in text
