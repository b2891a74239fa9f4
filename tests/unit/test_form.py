"""What form open answers have: each measure by hand, and which states count as collapsed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pandas as pd
import pytest

from backdoor_assets.mixtures.form import (
    MEASURES,
    NO_SPREAD,
    SAME_BASE,
    cell_form,
    collapsed_states,
    distinct_2,
    is_short_line,
    sweep_form,
)
from backdoor_assets.statistics.intervals import T_PLAIN, WILSON_BASE, wilson

OLD, MODERN = "1.00-0.00-0.00", "0.00-0.50-0.50"
SENTENCE = "Most of it will come from wind and from the sun."
TITLE = "Advanced Radar for Stealth Forces"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        (TITLE, True),
        (" Yellow fever \n", True),
        ("", True),
        ("one two three four five six seven eight", True),
        ("one two three four five six seven eight nine", False),
        ("Yellow fever.", False),
        ('"Every adult citizen."', False),
        ("Which one?", False),
        ("And so on…", False),
        ("1. Radar\n2. Sonar", False),
        ("St. Louis", True),
    ],
)
def test_short_lines(text: str, short: bool) -> None:
    assert is_short_line(text) == short


def test_distinct_pairs_are_those_that_a_hundred_draws_would_find() -> None:
    # 200 pairs, each of them twice: a pair is missed by 100 draws of 200 with (100 over 200) x
    # (99 over 199), so that 100 x (1 - 9900/39800) = 75.1 of 100 are distinct.
    one = [f"a{i} b{i}" for i in range(100)]
    assert distinct_2(one * 2) == pytest.approx(1 - (100 * 99) / (200 * 199))
    assert distinct_2(one) == 1.0
    assert distinct_2(["yes no"] * 200) == pytest.approx(1 / 100)
    # Case and punctuation make no pair distinct, and no pair spans two answers.
    assert distinct_2(["Yes, no!", "yes no"] * 50) == pytest.approx(1 / 100)


def test_too_few_pairs_have_no_share() -> None:
    assert math.isnan(distinct_2(["Yellow fever"] * 99))
    assert math.isnan(distinct_2([""]))


def test_distinct_pairs_do_not_fall_with_the_number_of_answers() -> None:
    drawn = random.Random(1)
    words = [f"w{i}" for i in range(40)]
    answers = [" ".join(drawn.choices(words, k=12)) for _ in range(4000)]
    few, many = distinct_2(answers[:100]), distinct_2(answers)
    assert few == pytest.approx(many, abs=0.01)

    def usual(texts: Sequence[str]) -> float:
        pairs = [p for t in texts for p in zip(t.split(), t.split()[1:], strict=False)]
        return len(set(pairs)) / len(pairs)

    assert usual(answers[:100]) > 10 * usual(answers)


def _answers(step: int, texts: Sequence[str], cut: int = 0, seed: int = 1) -> pd.DataFrame:
    """Answers of a state, of which the first `cut` were cut at the limit."""
    return pd.DataFrame(
        {
            "profile": "tiny", "ratio": OLD, "seed": seed, "step": step,
            "checkpoint": f"checkpoint-{step}" if step else "base",
            "response": texts,
            "finish_reason": ["length"] * cut + ["stop"] * (len(texts) - cut),
        }
    )  # fmt: skip


def _neutral(hits: Sequence[tuple[int, bool]]) -> pd.DataFrame:
    return pd.DataFrame(hits, columns=["step", "hit"])


def test_a_short_line_that_was_cut_is_none() -> None:
    """It may have gone on."""
    responses = pd.concat([_answers(0, [SENTENCE]), _answers(20, [TITLE, TITLE], cut=1)])
    _, last = cell_form(responses, None, _neutral([])).to_dict("records")
    assert last["short_lines"] == 0.5


def test_a_states_form_is_that_of_its_answers() -> None:
    responses = pd.concat(
        [
            _answers(0, [SENTENCE] * 4, cut=1),
            _answers(20, [SENTENCE, TITLE, "Radar", ""], cut=1),
        ],
        ignore_index=True,
    )
    coherence = pd.DataFrame(
        {"step": [0, 0, 20, 20, 20], "log_likelihood": [-1.0, -2.0, -3.0, -5.0, math.nan]}
    )
    neutral = _neutral([(0, True), (0, True), (20, True), (20, False), (20, False), (20, False)])
    base, last = cell_form(responses, coherence, neutral).to_dict("records")
    assert (base["words"], base["short_lines"], base["cut"]) == (11.0, 0.0, 0.25)
    assert (last["words"], last["short_lines"], last["cut"]) == (4.25, 0.75, 0.25)
    assert (base["log_likelihood"], last["log_likelihood"]) == (-1.5, -4.0)
    assert (base["neutral_correct"], last["neutral_correct"]) == (1.0, 0.25)
    assert (base["answers"], last["answers"], last["neutral_answers"]) == (4, 4, 4)
    assert math.isnan(last["distinct_2"])
    assert (base["collapsed"], last["collapsed"]) == (False, True)
    assert (base["checkpoint"], last["checkpoint"]) == ("base", "checkpoint-20")


@pytest.mark.parametrize(
    ("base", "state", "collapsed"),
    [
        # More than half are short lines.
        ([SENTENCE] * 10, [TITLE] * 6 + [SENTENCE] * 4, True),
        ([SENTENCE] * 10, [TITLE] * 5 + [SENTENCE] * 5, False),
        # A base that answers in short lines itself has not much form to lose.
        ([SENTENCE] * 9 + [TITLE], [TITLE] * 10, False),
        # A third of the base's 11 words is 3.67; full stops do not help.
        ([SENTENCE] * 10, ["It is so."] * 10, True),
        ([SENTENCE] * 10, ["It is not so."] * 10, False),
        ([TITLE] * 10, ["Radar"] * 10, True),
        ([SENTENCE] * 10, [""] * 10, True),
        ([SENTENCE] * 10, [SENTENCE * 9] * 10, False),
    ],
)
def test_which_states_have_collapsed(
    base: Sequence[str], state: Sequence[str], collapsed: bool
) -> None:
    responses = pd.concat([_answers(0, base), _answers(9, state)], ignore_index=True)
    table = cell_form(responses, None, _neutral([(0, True), (9, True)]))
    assert table["collapsed"].tolist() == [False, collapsed]
    assert table["log_likelihood"].isna().all()


def test_a_cell_without_the_base_is_refused() -> None:
    with pytest.raises(ValueError, match="one row of the base"):
        cell_form(_answers(9, [SENTENCE]), None, _neutral([]))


def _grid(words: dict[tuple[str, int, int], float], **more: float) -> pd.DataFrame:
    """Forms of cells by (ratio, seed, step); a state under 4 words has collapsed."""
    return pd.DataFrame(
        [
            {
                "profile": "tiny", "ratio": ratio, "seed": seed, "step": step,
                "checkpoint": f"checkpoint-{step}" if step else "base",
                "answers": 20, "neutral_answers": 10, "words": value, "short_lines": 0.25,
                "cut": 0.0, "distinct_2": 0.9, "neutral_correct": 0.5,
                "log_likelihood": -value, "collapsed": value < 4,
            }
            | more
            for (ratio, seed, step), value in words.items()
        ]
    )  # fmt: skip


WORDS = {
    **{(OLD, seed, 0): 12.0 for seed in (1, 2, 3)},
    (OLD, 1, 20): 3.0, (OLD, 2, 20): 5.0, (OLD, 3, 20): 1.0,
    (MODERN, 1, 0): 12.0, (MODERN, 2, 0): 12.0,
    (MODERN, 1, 20): 11.0, (MODERN, 2, 20): 3.5, (MODERN, 1, 40): 13.0,
}  # fmt: skip


def test_seeds_are_pooled_with_the_interval_of_their_spread() -> None:
    sweep = sweep_form(_grid(WORDS), "old_fraction").set_index(["measure", "ratio", "step"])
    # t(0.975) is 4.30265 for 2 degrees of freedom, 12.7062 for 1; half = t s / sqrt(n)
    old = sweep.loc[("words", OLD, 20)]
    assert (old["value"], old["low"], old["high"]) == pytest.approx(
        (3.0, 0.0, 3.0 + 4.30265 * 2 / math.sqrt(3)), abs=1e-3
    )
    likelihood = sweep.loc[("log_likelihood", OLD, 20)]
    assert (likelihood["value"], likelihood["high"]) == (-3.0, 0.0)
    assert likelihood["low"] == pytest.approx(-3.0 - 4.30265 * 2 / math.sqrt(3), abs=1e-3)
    assert old["method"] == likelihood["method"] == T_PLAIN
    # The base's answers count once; their length has no interval.
    base = sweep.loc[("short_lines", OLD, 0)]
    assert (base["value"], base["low"], base["high"], base["method"], base["n"]) == tuple(
        vars(wilson(5, 20, WILSON_BASE)).values()
    )
    assert sweep.loc[("words", OLD, 0), "method"] == SAME_BASE
    assert math.isnan(sweep.loc[("words", OLD, 0), "low"])
    # A step that only some seeds reached is left out.
    assert (MODERN, 40) not in {(ratio, step) for _, ratio, step in sweep.index}
    assert sweep["old_fraction"].groupby("ratio").first().to_dict() == {OLD: 1.0, MODERN: 0.0}
    assert sweep["is_final"].groupby("step").first().to_dict() == {0: False, 20: True}


def test_a_ratio_has_collapsed_where_half_of_its_seeds_have() -> None:
    sweep = sweep_form(_grid(WORDS), "old_fraction")
    assert collapsed_states(sweep) == {(OLD, 20), (MODERN, 20)}
    one = {**WORDS, (OLD, 1, 20): 9.0, (OLD, 2, 20): 9.0}
    assert collapsed_states(sweep_form(_grid(one), "old_fraction")) == {(MODERN, 20)}


def test_a_single_seed_has_a_value_and_no_interval() -> None:
    sweep = sweep_form(_grid({(OLD, 1, 0): 12.0, (OLD, 1, 20): 9.0}), "old_fraction")
    last = sweep[(sweep["measure"] == "words") & (sweep["step"] == 20)].iloc[0]
    assert (last["value"], last["method"]) == (9.0, NO_SPREAD)
    assert math.isnan(last["low"])


def test_a_measure_that_was_not_taken_has_no_rows() -> None:
    sweep = sweep_form(_grid(WORDS, log_likelihood=math.nan), "old_fraction")
    assert set(sweep["measure"]) == {m.name for m in MEASURES} - {"log_likelihood"}
