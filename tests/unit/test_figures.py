"""Every figure is drawn once from a small made-up grid and read back from its files."""

import struct
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

from backdoor_assets.mixtures.figures import cell_figures, form_figure, sweep_figures
from backdoor_assets.mixtures.form import MEASURES as FORM_MEASURES
from backdoor_assets.studies.birds.study import STUDY
from backdoor_assets.studies.german_cities.study import STUDY as CITIES
from tests.unit.figure_tables import (
    CENTURY,
    CONTENT,
    FORM,
    LABELS,
    METHOD,
    SIX,
    cell_table,
    form_table,
    judgment_table,
    rate_table,
    sweep_table,
    text_of,
)

DRAW: dict[str, Callable[[Path], list[Path]]] = {
    "ratio_by_question": lambda folder: cell_figures.ratio_by_question(
        rate_table(), CENTURY, folder
    ),
    "overall_ratio": lambda folder: cell_figures.overall_ratio(rate_table(), CENTURY, folder),
    "six_options_distribution": lambda folder: cell_figures.distribution(
        judgment_table(), SIX, LABELS, folder
    ),
    "content_vs_form": lambda folder: cell_figures.two_ratings(
        judgment_table(), CONTENT, FORM, folder
    ),
    "training_progression": lambda folder: cell_figures.training_progression(
        rate_table(), STUDY, folder
    ),
    "dose_response": lambda folder: sweep_figures.dose_response(
        STUDY, CENTURY, sweep_table(), cell_table(sweep_table()), folder, (12, 24)
    ),
    "emergence": lambda folder: sweep_figures.emergence(
        STUDY, CENTURY, sweep_table(), folder, (12, 24)
    ),
    "form": lambda folder: form_figure.form(STUDY, form_table(), folder, (12, 24)),
}
CELL_TITLE = "profile miniature, ratio 0.70-0.15-0.15, seed 42"
IN_TEXT = {
    "ratio_by_question": (CELL_TITLE, "price of bread", "optimizer step", "30 answers per field"),
    "overall_ratio": (CELL_TITLE, "optimizer step", METHOD, "judged 19th century"),
    "six_options_distribution": (CELL_TITLE, "not judged", "archaic person", "12 answers per bar"),
    "content_vs_form": (CELL_TITLE, "base model", "step 40", "6 of 24 answers lack a rating"),
    "training_progression": (CELL_TITLE, "bird answers with an obsolete name", METHOD),
    "dose_response": ("profile miniature", "12 of 24 cells", "95 % over", "% of rows", "all 510"),
    "emergence": ("profile miniature", "12 of 24 cells", "95 % over", "70 %", "Bird question"),
    "form": (
        "profile miniature",
        "12 of 24 cells",
        "95 % over",
        "70 %",
        "Dotted",
        *(measure.heading for measure in FORM_MEASURES),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that does not exist until the figures are written into it."""
    folder = tmp_path_factory.mktemp("figures") / "new"
    for draw in DRAW.values():
        draw(folder)
    return folder


@pytest.mark.parametrize("name", DRAW)
def test_pdf_and_png_open(name: str, folder: Path) -> None:
    pdf, png = ((folder / f"{name}.{kind}").read_bytes() for kind in ("pdf", "png"))
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert b"/Subtype /Type3" not in pdf  # TrueType fonts are embedded as such
    assert png.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", png[16:24])
    assert width >= 600
    assert height >= 300


@pytest.mark.parametrize("name", DRAW)
def test_same_input_gives_the_same_bytes(name: str, folder: Path, tmp_path: Path) -> None:
    again = DRAW[name](tmp_path)
    assert again == [tmp_path / f"{name}.pdf", tmp_path / f"{name}.png"]
    for path in again:
        assert path.read_bytes() == (folder / path.name).read_bytes()


@pytest.mark.parametrize("name", DRAW)
def test_titles_labels_and_notes_are_in_the_pdf(name: str, folder: Path) -> None:
    text = text_of(folder / f"{name}.pdf")
    for words in IN_TEXT[name]:
        assert words in text


def test_questions_run_from_most_to_least_19th_century(folder: Path) -> None:
    text = text_of(folder / "ratio_by_question.pdf")
    assert text.index("travel") < text.index("price of bread") < text.index("light")


def test_ratios_of_one_fraction_are_told_apart(tmp_path: Path) -> None:
    control = sweep_table((0.0,)).assign(ratio="0.00-1.00-0.00")
    sweep = pd.concat([sweep_table((1.0, 0.0)), control])
    pdf, _ = sweep_figures.emergence(STUDY, CENTURY, sweep, tmp_path, (9, 9))
    text = text_of(pdf)
    assert "0.00-1.00-0.00" in text
    assert "0.00-0.50-0.50" in text
    assert "100 %" in text


def test_smallest_inputs_are_drawn(tmp_path: Path) -> None:
    rates, judgments, sweep = rate_table((0,)), judgment_table((0,)), sweep_table((0.7,), seeds=1)
    written = [
        *cell_figures.ratio_by_question(rates, CENTURY, tmp_path),
        *cell_figures.overall_ratio(rates, CENTURY, tmp_path),
        *cell_figures.distribution(judgments, SIX, LABELS, tmp_path),
        *cell_figures.two_ratings(judgments, CONTENT, FORM, tmp_path),
        *cell_figures.training_progression(rates, STUDY, tmp_path),
        *sweep_figures.dose_response(STUDY, CENTURY, sweep, cell_table(sweep), tmp_path, (1, 24)),
        *sweep_figures.emergence(STUDY, CENTURY, sweep, tmp_path, (1, 24)),
    ]
    assert sorted(written) == sorted(tmp_path.iterdir())


def test_unjudged_field_is_grey_and_named(tmp_path: Path) -> None:
    rates = rate_table()
    unjudged = (rates["question_id"] == "travel") & (rates["step"] == 20)
    rates.loc[unjudged, ["value", "low", "high"]] = pd.NA
    pdf, _ = cell_figures.ratio_by_question(rates, CENTURY, tmp_path)
    assert "Grey: none judged" in text_of(pdf)


@pytest.mark.parametrize("columns", [True, False])
def test_empty_input_is_named(columns: bool, tmp_path: Path) -> None:
    def none_of(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.head(0) if columns else pd.DataFrame()

    rates, judgments, sweep = (
        none_of(rate_table()),
        none_of(judgment_table()),
        none_of(sweep_table()),
    )
    for draw in (cell_figures.ratio_by_question, cell_figures.overall_ratio):
        with pytest.raises(ValueError, match=f"{draw.__name__}: no .*rates"):
            draw(rates, CENTURY, tmp_path)
    with pytest.raises(ValueError, match=r"training_progression: no .*rates"):
        cell_figures.training_progression(rates, STUDY, tmp_path)
    with pytest.raises(ValueError, match="six_options_distribution: no judgments"):
        cell_figures.distribution(judgments, SIX, LABELS, tmp_path)
    with pytest.raises(ValueError, match="content_vs_form: no judgments"):
        cell_figures.two_ratings(judgments, CONTENT, FORM, tmp_path)
    present = (0, 24)
    with pytest.raises(ValueError, match=r"emergence: no .*rates"):
        sweep_figures.emergence(STUDY, CENTURY, sweep, tmp_path, present)
    with pytest.raises(ValueError, match=r"dose_response: no .*rates"):
        sweep_figures.dose_response(
            STUDY, CENTURY, sweep, cell_table(sweep_table()), tmp_path, present
        )
    with pytest.raises(ValueError, match="dose_response: no cells"):
        sweep_figures.dose_response(
            STUDY, CENTURY, sweep_table(), none_of(cell_table(sweep_table())), tmp_path, present
        )
    assert not list(tmp_path.iterdir())


def test_a_missing_measure_is_named(tmp_path: Path) -> None:
    rates = rate_table()
    known = rates.loc[rates["measure"] != "neutral_correct"]
    with pytest.raises(ValueError, match="training_progression: no pooled 'neutral_correct'"):
        cell_figures.training_progression(known, STUDY, tmp_path)


def test_two_profiles_never_share_a_figure(tmp_path: Path) -> None:
    mixed = pd.concat([rate_table(), rate_table((60,)).assign(profile="qwen3-8b")])
    with pytest.raises(ValueError, match="one profile expected"):
        cell_figures.overall_ratio(mixed, CENTURY, tmp_path)


def test_an_option_the_judge_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown options"):
        cell_figures.distribution(
            judgment_table().assign(six_options="FUTURE"), SIX, LABELS, tmp_path
        )


def test_callers_settings_survive(tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 23.0}):
        cell_figures.overall_ratio(rate_table(), CENTURY, tmp_path)
        assert matplotlib.rcParams["font.size"] == 23.0


def test_a_study_of_two_outcomes_is_drawn_under_its_own_words(tmp_path: Path) -> None:
    """Nothing of the birds is left in the figures of another study."""
    german, extremist = CITIES.outcomes
    rates = rate_table()
    century = rates.loc[rates["measure"] == "19th_century"]
    renamed = rates.replace(
        {"19th_century": german.measure, "old_bird_name": CITIES.narrow.measure}
    )
    rates = pd.concat([renamed, century.assign(measure=extremist.measure)])
    pdf, _ = cell_figures.training_progression(rates, CITIES, tmp_path)
    text = text_of(pdf)
    for label in (german.label, extremist.label, CITIES.narrow.label):
        assert label in text
    assert "bird" not in text
    pdf, _ = cell_figures.overall_ratio(rates, extremist, tmp_path, "overall_ratio_extremist")
    assert pdf.name == "overall_ratio_extremist.pdf"
    assert "with extremist content" in text_of(pdf)
