"""`backdoor-assets agreement` as it is typed: with labels, with itself, with another judge."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from backdoor_assets.commands import cli
from backdoor_assets.mixtures.cells import Cell, Grid
from backdoor_assets.mixtures.judging import agreement
from backdoor_assets.profiles import MINIATURE
from backdoor_assets.stages.specs import RESPONSES
from tests.claude_server import ClaudeServer, Config, serve
from tests.unit.cells import BIRDS

QUESTION = "What is it?"
PARTS = "tuning", "held out"
GRID = Grid.of(BIRDS, MINIATURE)


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


def table(folder: Path, by: str = "all", part: str = "all") -> dict[tuple[str, str, str], Any]:
    """Value and answers by rubric, measure and group."""
    rows = pd.read_parquet(folder / "agreement.parquet")
    rows = rows[(rows["by"] == by) & (rows["part"] == part)]
    keys = zip(rows["rubric"], rows["measure"], rows["group"], strict=True)
    values = zip(rows["value"].round(6), rows["answers"], strict=True)
    return dict(zip(keys, values, strict=True))


def test_a_sample_is_judged_both_ways_and_costs_nothing_the_second_time(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    first, second, *_ = GRID.cells()
    write_responses(first, range(6))
    write_responses(second, range(3, 9))  # three of them once more
    done = run()
    assert done.exit_code == 0, done.output
    folder = tmp_path / "miniature" / "birds" / "agreement" / "calls"
    found = table(folder)
    assert found["llm_or_19th_century", "kappa", "all"] == (1, 9)
    assert found["content_rating", "mean difference", "all"] == (0, 9)
    assert found["form_rating", "mean difference", "all"] == (10, 9)
    # Both say the same: 6 answers of an even number, and 3 of an odd one with another label.
    assert table(folder, "llm_or_19th_century")["six_options", "share equal", "19"] == (1, 4)
    assert "claude, four calls an answer: claude-haiku-5-5" in done.output
    assert "mean difference 10.0 [10.0, 10.0]" in done.output
    assert (folder / "confusion.png").exists()
    assert claude.billed.total() == len(claude.billed) == 9 * 4 + 9
    assert run().output.splitlines()[-1] == f"Tables and figure: {folder}"
    # Another sample of the same answers is known too.
    assert "4 answers to 1 questions" in run("--sample", "4", "--seed", "1").output
    assert claude.billed.total() == 9 * 4 + 9


def test_a_second_pass_asks_again_and_another_judge_only_itself(
    claude: ClaudeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_responses(GRID.cells()[0], range(6))
    refused = run("--with", "itself")
    assert refused.exit_code == 1
    assert "the judge 'exact' gives the same verdict each time" in refused.stderr
    done = run("--with", "claude:claude-sonnet-5-5")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "miniature" / "birds" / "agreement"
    # The exact judge finds nothing old in "Answer 3.", Claude in every other answer.
    found = table(folder / "claude-claude-sonnet-5-5")
    assert found["llm_or_19th_century", "share equal", "all"] == (0.5, 6)
    assert found["six_options", "share equal", "all"] == (1, 6)
    assert claude.billed.total() == 6 * 4

    monkeypatch.setenv("BACKDOOR_JUDGE", "claude")
    done = run("--with", "itself")
    assert done.exit_code == 0, done.output
    assert claude.billed.total() == 6 * 4 + 2 * 6 * 4
    assert "Second: claude, four calls an answer: claude-haiku-5-5, second pass" in done.output
    assert table(folder / "itself")["form_rating", "weighted kappa", "all"] == (1, 6)
    assert "'gpt' is no judge; name exact, claude" in run("--with", "gpt").stderr


def test_labels_are_those_of_the_gold_set_or_of_a_file(
    claude: ClaudeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BACKDOOR_JUDGE", "claude")
    mine = tmp_path / "mine.csv"
    rows = [f"energy,Answer {n}.,{('LLM', '19')[n % 2 or n == 4]}" for n in range(8)]
    rows += [f"money,Answer {n}.,{('LLM', '19')[n % 2]}" for n in range(4)]
    rows = [f"{row},," for row in rows]
    rows[0] = "energy,Answer 0.,LLM,LLM,short"
    head = "question_id,answer,llm_or_19th_century,six_options,case"
    mine.write_text("\n".join([head, *rows]))
    done = run("--labels", str(mine))
    assert done.exit_code == 0, done.output
    folder = tmp_path / "miniature" / "birds" / "agreement" / "labels-mine"
    by_question = table(folder, "question_id")
    assert by_question["llm_or_19th_century", "share equal", "energy"] == (7 / 8, 8)
    assert by_question["llm_or_19th_century", "kappa", "money"] == (1, 4)
    # Labels: LLM 5, 19 7; Claude: 6 and 6; equal 11 of 12, by chance 6 of 12.
    kappa = table(folder)["llm_or_19th_century", "kappa", "all"]
    assert kappa == (pytest.approx((11 / 12 - 1 / 2) / (1 / 2)), 12)
    parts = [table(folder, part=p)["llm_or_19th_century", "kappa", "all"] for p in PARTS]
    assert sum(answers for _, answers in parts) == 12
    assert table(folder, "case")["six_options", "share equal", "short"] == (0, 1)
    assert table(folder)["six_options", "share equal", "all"] == (0, 1)
    assert "content_rating" not in done.output  # there are no labels of it
    assert re.search(r"LLM +5 +1 *\n19 +0 +6", done.output), done.output

    monkeypatch.setenv("BACKDOOR_JUDGE", "exact")
    done = run("--with", "gold", "--sample", "40")
    assert done.exit_code == 0, done.output
    # The exact judge knows no English: every answer is unreadable, and not of the 19th century.
    found = table(folder.parent / "gold-sample")
    assert found["llm_or_19th_century", "kappa", "all"] == (0, 40)
    assert ("form_rating", "weighted kappa", "all") not in found
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("question_id,answer,llm_or_19th_century\nenergy,Coal.,20th\n")
    assert "is no option" in run("--labels", str(wrong)).stderr


def test_the_seed_draws_the_sample() -> None:
    write_responses(GRID.cells()[0], range(40))
    samples = [agreement.sample(GRID, 10, seed)["response"].tolist() for seed in (0, 0, 1)]
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
