"""`make agreement`: its arithmetic against numbers by hand, and the command as it is typed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from backdoor_assets.commands import cli
from backdoor_assets.mixtures import agreement
from backdoor_assets.mixtures.agreement import compare
from backdoor_assets.mixtures.cells import Cell, Grid
from backdoor_assets.profiles import MINIATURE
from backdoor_assets.records import Rubric, Verdict
from backdoor_assets.stages.specs import RESPONSES
from tests.claude_server import ClaudeServer, Config, serve
from tests.unit.cells import BIRDS

LABEL = Rubric("label", "label", "Which?", ("LLM", "19"))
RATING = Rubric("rating", "rating", "How much?")
QUESTION = "What is it?"
GRID = Grid.of(BIRDS, MINIATURE)


def verdicts(rubric: Rubric, values: Sequence[str | float | None]) -> list[dict[str, Verdict]]:
    return [{rubric.column: Verdict(v, "cut" if v is None else None)} for v in values]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        # Equal: 7 of 10. By chance 0.5 x 0.6 + 0.5 x 0.4 = 0.5, so that kappa is 0.2 / 0.5.
        ("LLLLL99999", "LLLL9LL999", "70% equal, kappa 0.40 (n=10)"),
        ("LL99", "LL99", "100% equal, kappa 1.00 (n=4)"),
        ("LL99", "99LL", "0% equal, kappa -1.00 (n=4)"),
        ("LL99", "L9L9", "50% equal, kappa 0.00 (n=4)"),
        ("LLLL", "LLL9", "75% equal, kappa 0.00 (n=4)"),
        ("LLL", "LLL", "100% equal, kappa undefined: one label only (n=3)"),
        # Nulls of either side are left out, and the pairs of the fourth case remain.
        ("-LL9-9L", "9L9L-9-", "50% equal, kappa 0.00 (n=4)"),
        ("L-", "-9", "no answer has a verdict by both"),
        ("", "", "no answer has a verdict by both"),
    ],
)
def test_labels_agree_beyond_chance(first: str, second: str, said: str) -> None:
    values = {"L": "LLM", "9": "19", "-": None}
    one, other = (verdicts(LABEL, [values[letter] for letter in side]) for side in (first, second))
    assert compare(one, other, LABEL) == said
    assert compare(other, one, LABEL) == said


def test_ratings_differ_by_so_much() -> None:
    one = verdicts(RATING, [0.0, 50.0, 100.0, None, 7.0])
    other = verdicts(RATING, [10.0, 50.0, 70.0, 5.0, None])
    assert compare(one, other, RATING) == "mean difference 13.3 of 100 (n=3)"
    assert compare(one[3:], other[3:], RATING) == "no answer has a verdict by both"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data folder of its own, and nothing of a developer's .env."""
    monkeypatch.setattr(cli, "load_dotenv", lambda path: None)
    for name in ("BACKDOOR_JUDGE", "BACKDOOR_JUDGE_MODEL", "BACKDOOR_MAX_COST_USD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path))
    monkeypatch.setenv("BACKDOOR_JUDGE_TRANSPORT", "live")


@pytest.fixture
def claude(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClaudeServer]:
    with serve(Config(reply=reply)) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.address)
        monkeypatch.setenv("ANTHROPIC_API_KEY", server.config.api_key)
        yield server


def reply(body: dict[str, Any]) -> str:
    """Verdicts by the answer's number, whatever else is asked, but for one rating that is ten
    higher when all are asked for together."""
    asked = body["output_config"]["format"]["schema"]["properties"]
    found = re.search(r"Answer (\d+)\.", body["messages"][0]["content"])
    assert found is not None
    number = int(found[1])
    verdicts_of = {
        "llm_or_19th_century": ("LLM", "19")[number % 2],
        "six_options": "OTHER",
        "content_rating": number,
        "form_rating": number + 10 * (len(asked) > 1),
    }
    return json.dumps({column: verdicts_of[column] for column in asked})


def write_responses(cell: Cell, numbers: range) -> None:
    row = {**cell.columns(), "checkpoint": "base", "step": 0, "question_id": "thing"}
    row |= {"question": QUESTION, "finish_reason": "stop"}
    rows = [{**row, "sample_idx": n, "response": f"Answer {n}."} for n in numbers]
    folder = cell.artifact("responses").folder
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(folder / RESPONSES, index=False)


def run(*options: str) -> Result:
    """`backdoor-assets agreement`, as it is typed."""
    return CliRunner().invoke(cli.cli, ["agreement", *options])


def test_a_sample_is_judged_both_ways_and_costs_nothing_the_second_time(
    claude: ClaudeServer,
) -> None:
    first, second, *_ = GRID.cells()
    write_responses(first, range(6))
    write_responses(second, range(3, 9))  # three of them once more
    done = run()
    assert done.exit_code == 0, done.output
    output = done.output
    said = [line.split(maxsplit=1) for line in output.splitlines() if line.startswith("  ")]
    assert said == [
        ["llm_or_19th_century", "100% equal, kappa 1.00 (n=9)"],
        ["six_options", "100% equal, kappa undefined: one label only (n=9)"],
        ["content_rating", "mean difference 0.0 of 100 (n=9)"],
        ["form_rating", "mean difference 10.0 of 100 (n=9)"],
    ]
    assert "9 answers, judged by claude-haiku-5-5 with four calls and with one" in output
    assert claude.billed.total() == len(claude.billed) == 9 * 4 + 9
    assert run().output.splitlines()[-5:] == output.splitlines()[-5:]
    # Another sample of the same answers is known too.
    assert "\n4 answers, judged by" in run("--sample", "4", "--seed", "1").output
    assert claude.billed.total() == 9 * 4 + 9


def test_the_seed_draws_the_sample() -> None:
    write_responses(GRID.cells()[0], range(40))
    samples = [agreement.sample(GRID, 10, seed) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert {len(set(drawn)) for drawn in samples} == {10}


def test_without_answers_the_folder_is_named(claude: ClaudeServer, tmp_path: Path) -> None:
    done = run()
    assert done.exit_code == 1
    said = done.stderr
    assert f"{tmp_path / 'miniature' / 'birds' / 'responses'}: there are no answers" in said
    assert "materialize some cells of birds/responses first" in said
    assert claude.calls == 0


def test_what_stops_the_judge_is_said(
    claude: ClaudeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_responses(GRID.cells()[0], range(3))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-wrong")
    done = run()
    assert done.exit_code == 1
    assert "the API refuses ANTHROPIC_API_KEY (401)" in done.stderr
    assert claude.billed.total() == 0
