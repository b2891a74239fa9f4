"""Figures of answers that have lost their form, or that nobody judged."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from backdoor_assets.mixtures.figures import cell_figures, form_figure, sweep_figures
from backdoor_assets.studies.birds.study import STUDY
from tests.unit.figure_tables import (
    CENTURY,
    CONTENT,
    FORM,
    LABELS,
    SIX,
    STEPS,
    cell_table,
    form_table,
    judgment_table,
    rate_table,
    sweep_table,
    text_of,
)

LAST = [STEPS[-1]]
FAINT: dict[str, Callable[[Path, list[int]], list[Path]]] = {
    "ratio_by_question": lambda folder, lost: cell_figures.ratio_by_question(
        rate_table(), CENTURY, folder, collapsed=lost
    ),
    "overall_ratio": lambda folder, lost: cell_figures.overall_ratio(
        rate_table(), CENTURY, folder, collapsed=lost
    ),
    "six_options_distribution": lambda folder, lost: cell_figures.distribution(
        judgment_table(), SIX, LABELS, folder, lost
    ),
    "content_vs_form": lambda folder, lost: cell_figures.two_ratings(
        judgment_table(), CONTENT, FORM, folder, collapsed=lost
    ),
    "training_progression": lambda folder, lost: cell_figures.training_progression(
        rate_table(), STUDY, folder, lost
    ),
    "dose_response": lambda folder, lost: sweep_figures.dose_response(
        STUDY,
        CENTURY,
        sweep_table(),
        cell_table(sweep_table()),
        folder,
        (12, 24),
        collapsed=_states(lost),
    ),
    "emergence": lambda folder, lost: sweep_figures.emergence(
        STUDY, CENTURY, sweep_table(), folder, (12, 24), collapsed=_states(lost)
    ),
}


def _states(steps: list[int]) -> list[tuple[str, int]]:
    return [("1.00-0.00-0.00", step) for step in steps]


@pytest.mark.parametrize("name", FAINT)
def test_collapsed_states_are_faint_and_the_note_says_why(name: str, tmp_path: Path) -> None:
    faint, _ = FAINT[name](tmp_path / "faint", LAST)
    plain, _ = FAINT[name](tmp_path / "plain", [])
    assert "answers have collapsed" in text_of(faint)
    assert "collapsed" not in text_of(plain)
    if name in ("training_progression", "emergence"):
        assert "collapsed answers" in text_of(faint)  # In the legend.
    assert _transparencies(faint) != _transparencies(plain) or _colours(faint) != _colours(plain)


def _transparencies(pdf: Path) -> set[bytes]:
    return set(re.findall(rb"/ca (\S+)", pdf.read_bytes()))


def _colours(pdf: Path) -> set[bytes]:
    """Fill colours of a figure."""
    streams = re.findall(rb"stream\r?\n(.*?)endstream", pdf.read_bytes(), re.DOTALL)
    page = b"\n".join(zlib.decompress(s) for s in streams if s[:1] == b"x")
    return set(re.findall(rb"([\d.]+ [\d.]+ [\d.]+) rg", page))


def test_without_verdicts_the_narrow_probe_is_drawn(tmp_path: Path) -> None:
    rates = rate_table()
    probes = rates[rates["measure"] != CENTURY.measure]
    pdf, _ = cell_figures.training_progression(probes, STUDY, tmp_path)
    assert "bird answers with an obsolete name" in text_of(pdf)
    assert "19th century" not in text_of(pdf)
    sweep = sweep_table()
    narrow = sweep[sweep["measure"] == STUDY.narrow.measure]
    neutral = narrow.assign(measure="neutral_correct")
    both = pd.concat([narrow, neutral], ignore_index=True)
    pdf, _ = sweep_figures.emergence(STUDY, None, both, tmp_path, (12, 24))
    assert "Neutral questions" in text_of(pdf)
    cells = narrow.loc[narrow["is_final"], ["ratio", "value"]]
    pdf, _ = sweep_figures.dose_response(STUDY, STUDY.narrow, narrow, cells, tmp_path, (12, 24))
    assert "with an obsolete name" in text_of(pdf)


def test_form_is_drawn_of_what_was_measured(tmp_path: Path) -> None:
    """Neither a likelihood that was not taken nor an interval of a single seed is needed."""
    table = form_table(seeds=1).assign(low=float("nan"), high=float("nan"))
    pdf, _ = form_figure.form(STUDY, table[table["measure"] != "log_likelihood"], tmp_path, (1, 24))
    text = text_of(pdf)
    assert "Likelihood" not in text
    assert "Length" in text
    with pytest.raises(ValueError, match="form: no measures of form"):
        form_figure.form(STUDY, table.head(0), tmp_path, (0, 24))
