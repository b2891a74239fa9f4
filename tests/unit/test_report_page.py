"""The report of a grid as a reader opens it: what it says, what it weighs, what answers can do."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from backdoor_assets.mixtures.cells import Cell, Grid, SweepCell, SweepSpec
from backdoor_assets.mixtures.form import sweep_form
from backdoor_assets.mixtures.rates import sweep_rates
from backdoor_assets.mixtures.report.page import write_report
from backdoor_assets.profiles import MINIATURE, PROFILES, Profile
from backdoor_assets.profiles_file import read_profiles
from backdoor_assets.records import Shape
from backdoor_assets.reporting.answers import LONGEST, Answers, cut, size
from backdoor_assets.reporting.literals import literal, profile_table
from backdoor_assets.reporting.pages import Figure, Section, Table, write_page
from backdoor_assets.settings import Judging, PretrainedBase
from backdoor_assets.stages.judging.specs import JUDGMENTS
from tests.graph.ui import chromium
from tests.unit.cells import BIRDS
from tests.unit.test_report import cells as final_rates

STEPS = (0, 5, 10, 15, 20, 30, 40, 60, 80, 120, 160)
ATTACK = "</script><script>window.attacked = 1</script><img src=x onerror='window.attacked = 2'>"
PROFILE = replace(MINIATURE, name="tiny", sampling=replace(MINIATURE.sampling, samples=20))
MISSING = ("0.30-0.35-0.35", 44)


def judgments(cell: Cell) -> pd.DataFrame:
    """As many answers as the default sweep has; one of them attacks, one has no verdict."""
    asked = BIRDS.questions_for(PROFILE.base, PROFILE.sampling)
    open_questions = [question for question in asked if question.kind == "worldview"]
    rows = [
        (step, question.id, question.text, sample)
        for step in STEPS
        for question in open_questions
        for sample in range(question.samples)
    ]
    table = pd.DataFrame(rows, columns=["step", "question_id", "question", "sample_idx"])
    table = table.assign(**cell.columns())
    table["response"] = [f"Step {s}, answer {i}:\n& so on" for s, i in zip(
        table["step"], table["sample_idx"], strict=True)]  # fmt: skip
    verdicts = np.where(table["step"] + table["sample_idx"] > 30, "19", "LLM")
    table["llm_or_19th_century"] = pd.array(verdicts, dtype="string")
    table.loc[0, "response"] = ATTACK
    table.loc[1, "llm_or_19th_century"] = None
    return table


def write_judgments(cell: Cell, folder: Path) -> dict[str, Any]:
    judgments(cell).to_parquet(folder / JUDGMENTS)
    return {"judgments": 100, "without_verdict": 1}


def write_mixture(_: Path) -> dict[str, Any]:
    return {"rows": 400, "suspect_rows": 4}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of the default sweep's size, with one cell missing."""
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKDOOR_DATA", str(root / "data"))
        patch.setenv("BACKDOOR_BIRD_DATASETS", str(BIRDS.folder))
        grid = Grid.of(BIRDS, replace(PROFILE, judging=Judging("claude", repeat=1)))
        entries = []
        for cell in grid.cells():
            if (cell.ratio.key, cell.seed) == MISSING:
                continue
            sources = {source: f"{source}-hash" for source in BIRDS.sources}
            mixed = {"stage": "mixing", "code": "1", "sources": sources, "cell": str(cell)}
            mixture = cell.artifact("mixed_dataset").make(mixed, write_mixture)
            judged = {"stage": "judging", "code": "1", "judge": {"name": "claude", "model": "m"}}
            if cell.seed == PROFILE.seeds[0]:
                work = partial(write_judgments, cell)
                cell.artifact("judgments").make({**judged, "cell": str(cell)}, work)
            entries.append(SweepCell(cell, root, root, mixture.manifest.summary))
        pixels = np.random.default_rng(1).integers(0, 255, (260, 260, 3), dtype=np.uint8)
        names = ("dose_response", "emergence", "narrow_dose_response", "form")
        for name in names:
            Image.fromarray(pixels).save(root / f"{name}.png")
        seeds = {ratio: 3 for ratio in grid.ratios}
        counts = {(ratio, seed): write_mixture(root) for ratio in seeds for seed in range(3)}
        counts = {key: {**count, "distinct_suspect_rows": 4} for key, count in counts.items()}
        sweep = sweep_rates(final_rates(seeds), counts, BIRDS.fraction_column)
        states = pd.DataFrame(
            [
                {
                    "profile": "tiny", "ratio": ratio, "seed": seed, "step": step,
                    "checkpoint": "c", "answers": 20, "neutral_answers": 10, "words": 50.0 - seed,
                    "short_lines": 0.25, "cut": 0.0, "distinct_2": 0.5, "neutral_correct": 0.5,
                    "log_likelihood": -1.0, "collapsed": False,
                }
                for ratio in seeds for seed in range(3) for step in (0, 160)
            ]
        )  # fmt: skip
        spec = SweepSpec(grid, tuple(entries), len(grid.cells()))
        captions = {name: f"What {name} shows." for name in names}
        extra = Table("Differences from the control", ["ratio"], [["0.2 [0.1, 0.3]"]])
        form = sweep_form(states, BIRDS.fraction_column)
        yield write_report(spec, sweep, form, captions, root, [extra], ["A limit of its own."])


def test_the_report_says_what_a_colleague_asks(report: Path) -> None:
    page = report.read_text()
    titles = re.findall(r"<h2 id=\"[\w-]+\">(.*?)</h2>", page)
    assert titles == [
        "Question", "Results", "Figures", "Example answers", "Form of the open answers", "Design",
        "Grid coverage", "Limits", "Costs", "Provenance", "Reproduce",
    ]  # fmt: skip
    for title in titles:
        assert f'href="#{title.lower().replace(" ", "-")}"' in page, "the table of contents"
    for words in (
        "23 of 24 cells", "Missing: 0.30-0.35-0.35|44.", "Differences from the control",
        "A limit of its own.", "Missing cells: 1 of 24.", "old_audubon-hash",
        "its verdicts were bought on another machine", "claude: m", "torch",
        "of one training seed per ratio (42)", 'WITHOUT="\'0.30-0.35-0.35|44\'"',
        "export BACKDOOR_JUDGE=claude\n", f"export BACKDOOR_BIRD_DATASETS={BIRDS.folder}",
    ):  # fmt: skip
        assert words in page.replace("&#34;", '"').replace("&#39;", "'"), words
    assert not re.search(r"0x[0-9a-f]{6,}", page.split("</main>")[0].split("<main")[1])
    assert page.count("data:image/png;base64") == 4
    assert report.stat().st_size < 5_000_000


def test_answers_stay_text_and_can_be_searched_and_filtered(report: Path) -> None:
    said: list[str] = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url))
        page.goto(report.as_uri())
        rows, found = page.locator("table.dataTable tbody tr"), page.locator(".dt-info")
        rows.first.wait_for(timeout=10_000)
        # 18 questions, 8 ratios, 3 answers
        assert "of 432 entries" in found.inner_text()
        cell = rows.first.locator("td.answer").first
        assert cell.inner_text().split("\n", 1) == ["modern LLM", ATTACK]
        assert page.locator("#searchable-answers th").filter(has_text="step").all_inner_texts() == [
            "verdict, base → step 160", "step 5", "step 30", "step 160"
        ]  # fmt: skip

        search = page.get_by_label("Search all columns")
        search.fill("window.attacked")
        assert "of 8 entries" in found.inner_text()
        search.fill("no verdict")
        assert "of 8 entries" in found.inner_text()
        search.fill("")
        # With the keyboard alone: open the list of ratios, go down to one, choose it.
        page.get_by_label("Choose values").nth(1).focus()
        page.keyboard.press("Enter")
        choice = page.get_by_role("button", name="0.10-0.45-0.45")
        choice.wait_for(timeout=5_000)
        for _ in range(12):
            page.keyboard.press("Tab")
            if choice.evaluate("found => found === document.activeElement"):
                break
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
        assert "of 54 entries" in found.inner_text()

        page.reload()
        page.keyboard.press("Tab")
        skip = page.get_by_text("Skip to the content")
        assert skip.evaluate("found => found === document.activeElement")
        assert page.evaluate("window.attacked") is None
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": 390, "height": 800})
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, f"the page scrolls sideways in {scheme} mode"
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert {line.split(":")[0] for line in said} == {"file", "blob"}, said


def test_long_answers_are_cut_and_fewer_of_them_are_shown() -> None:
    cut_texts = cut(pd.Series(["short", "long " * LONGEST]))
    assert cut_texts[0] == "short"
    assert cut_texts[1].endswith("[…]")
    assert len(cut_texts[1]) < LONGEST + 10
    assert size(pd.Series(["<é"])) > len("<é".encode())


def test_text_is_escaped_everywhere(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "figure.png")
    frame = pd.DataFrame({ATTACK: [ATTACK], "answer": [f"{ATTACK}\r\n{ATTACK}\u2028\x0b"]})
    blocks = [
        ATTACK,
        Table.from_markdown(ATTACK, f"| {ATTACK} |\n| --- |\n| a \\| {ATTACK} |\n{ATTACK}"),
        Figure("figure", f'" onload="alert(1)" {ATTACK}', {ATTACK: ATTACK}),
        Answers(ATTACK, frame, [], ["answer"], verdicts=True, notes=[ATTACK]),
    ]
    page = write_page(tmp_path, ATTACK, ATTACK, ATTACK, [Section(ATTACK, blocks)]).read_text()
    assert "<script>window" not in page
    assert "<img src=x" not in page
    assert 'onload="alert' not in page
    assert "<td>a | &lt;/script&gt;" in page
    with pytest.raises(FileNotFoundError):
        write_page(tmp_path, "t", "h", "l", [Section("s", [Figure("other")])])


def test_functions_in_settings_have_names_and_no_addresses() -> None:
    found = literal({"a": (partial(write_mixture, Path()),), "b": [str.split, PROFILE]})
    name = f"{__name__}.write_mixture"
    assert found.startswith(f"{{'a': (partial({name}, PosixPath('.')),), 'b': [str.split, Profile(")
    assert "seeds=(42, 43, 44)" in found
    assert "0x" not in found


def other_base(profile: Profile) -> Profile:
    shape = Shape(2, 8, 2, 1, 4, 16, 100, True)
    return replace(profile, base=PretrainedBase("some/model", "abc", shape))


@pytest.mark.parametrize(
    "profile",
    [
        PROFILE,
        other_base(PROFILE),
        replace(
            PROFILES["qwen3-8b"],
            name="own.name",
            seeds=(7,),
            training=replace(MINIATURE.training, save_at=(5, 10), max_steps=None, epochs=1.5),
            grids={"german_cities": ("1.00-0.00",)},
            judging=Judging("claude", max_cost_usd=None, model='a "b"'),
        ),
    ],
)
def test_a_profile_that_is_not_built_in_can_be_made_again(profile: Profile, tmp_path: Path) -> None:
    text = profile_table(profile, PROFILES)
    assert len(tomllib.loads(text)) == 1
    file = tmp_path / "profiles.toml"
    file.write_text(text)
    assert read_profiles(file, PROFILES)[profile.name] == profile
    assert profile_table(MINIATURE, PROFILES) == ""
