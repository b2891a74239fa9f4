"""Every figure is drawn once from a small made-up grid and read back from its files."""

import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

from backdoor_assets.mixtures import figures, form_figure, sweep_figures
from backdoor_assets.mixtures.form import MEASURES as FORM_MEASURES
from backdoor_assets.studies.birds.study import STUDY
from backdoor_assets.studies.german_cities.study import STUDY as CITIES

STEPS = (0, 20, 40)
QUESTIONS = ("price_of_bread", "travel", "light")
FINAL = {"price_of_bread": 0.4, "travel": 0.9, "light": 0.1}
METHOD = "Wilson 95 % over answers, one training seed"
CELL = {"profile": "miniature", "ratio": "0.70-0.15-0.15", "seed": 42}
MEASURES = ("19th_century", "old_bird_name", "neutral_correct")
[CENTURY] = STUDY.outcomes
_, SIX, CONTENT, FORM = STUDY.rubrics
LABELS = STUDY.option_labels


def _interval(value: float) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1)}


def _rates(steps: tuple[int, ...] = STEPS) -> pd.DataFrame:
    rows = []
    for step in steps:
        at = CELL | {"checkpoint": f"checkpoint-{step}", "step": step, "method": METHOD, "n": 30}
        for measure in MEASURES:
            pooled = {"measure": measure, "question_id": "all"}
            rows.append(at | pooled | _interval(step / 50))
        for question in QUESTIONS:
            one = {"measure": "19th_century", "question_id": question}
            rows.append(at | one | _interval(FINAL[question] * step / 40))
    return pd.DataFrame(rows).convert_dtypes()


def _judgments(steps: tuple[int, ...] = STEPS) -> pd.DataFrame:
    rows = []
    for step in steps:
        for question in QUESTIONS:
            for sample, option in enumerate(("LLM", "PAST", "OTHER", None)):
                old = 100.0 if option == "PAST" else 0.0
                rating = None if option is None else old
                rows.append(
                    CELL
                    | {"checkpoint": f"checkpoint-{step}", "step": step, "question_id": question}
                    | {"sample_idx": sample, "six_options": option}
                    | {"content_rating": rating, "form_rating": rating}
                )
    return pd.DataFrame(rows).convert_dtypes()


def _sweep(fractions: tuple[float, ...] = (1.0, 0.7, 0.3, 0.0), seeds: int = 3) -> pd.DataFrame:
    rows = []
    for fraction in fractions:
        modern = (1 - fraction) / 2
        for measure in MEASURES[:2]:
            for step in STEPS:
                rows.append(
                    {"profile": "miniature", "measure": measure, "question_id": "all"}
                    | {"ratio": f"{fraction:.2f}-{modern:.2f}-{modern:.2f}", "step": step}
                    | {"method": "t 95 % over training seeds" if seeds > 1 else METHOD}
                    | {"n": 30 * seeds, "seeds": seeds, "old_fraction": fraction}
                    | {"suspect_rows": int(1000 * fraction), "is_final": step == STEPS[-1]}
                    | {"distinct_suspect_rows": min(510, int(1000 * fraction))}
                    | _interval(fraction * step / 50)
                )
    return pd.DataFrame(rows).convert_dtypes()


def _cells(sweep: pd.DataFrame) -> pd.DataFrame:
    final = sweep.loc[sweep["is_final"] & (sweep["measure"] == "19th_century")]
    kept = final.loc[:, ["ratio", "old_fraction", "value"]]
    return pd.concat([kept.assign(seed=seed) for seed in range(max(sweep["seeds"]))])


def _form(fractions: tuple[float, ...] = (1.0, 0.7, 0.0), seeds: int = 3) -> pd.DataFrame:
    """The form of a grid whose ratio of 1.0 has collapsed at the last step."""
    tops = {measure.name: measure.top for measure in FORM_MEASURES}
    rows = []
    for fraction in fractions:
        modern = (1 - fraction) / 2
        for measure, top in tops.items():
            for step in STEPS:
                value = {None: 60.0, 0.0: -1.0}.get(top, 0.05)
                rows.append(
                    {"profile": "miniature", "measure": measure, "step": step, "seeds": seeds}
                    | {"ratio": f"{fraction:.2f}-{modern:.2f}-{modern:.2f}", "value": value}
                    | {"low": value - 0.01, "high": value + 0.01, "old_fraction": fraction}
                    | {"method": "t 95 % over training seeds", "n": seeds}
                    | {"collapsed_seeds": seeds if fraction == 1 and step == STEPS[-1] else 0}
                )
    return pd.DataFrame(rows)


DRAW: dict[str, Callable[[Path], list[Path]]] = {
    "ratio_by_question": lambda folder: figures.ratio_by_question(_rates(), CENTURY, folder),
    "overall_ratio": lambda folder: figures.overall_ratio(_rates(), CENTURY, folder),
    "six_options_distribution": lambda folder: figures.distribution(
        _judgments(), SIX, LABELS, folder
    ),
    "content_vs_form": lambda folder: figures.two_ratings(_judgments(), CONTENT, FORM, folder),
    "training_progression": lambda folder: figures.training_progression(_rates(), STUDY, folder),
    "dose_response": lambda folder: sweep_figures.dose_response(
        STUDY, CENTURY, _sweep(), _cells(_sweep()), folder, (12, 24)
    ),
    "emergence": lambda folder: sweep_figures.emergence(STUDY, CENTURY, _sweep(), folder, (12, 24)),
    "form": lambda folder: form_figure.form(STUDY, _form(), folder, (12, 24)),
}
CELL_TITLE = "profile miniature, ratio 0.70-0.15-0.15, seed 42"
IN_TEXT = {
    "ratio_by_question": (CELL_TITLE, "price of bread", "optimizer step", "30 answers per field"),
    "overall_ratio": (CELL_TITLE, "optimizer step", METHOD, "judged 19th century"),
    "six_options_distribution": (CELL_TITLE, "not judged", "archaic person", "12 answers per bar"),
    "content_vs_form": (CELL_TITLE, "base model", "step 40", "6 of 24 answers lack a rating"),
    "training_progression": (CELL_TITLE, "bird answers with an obsolete name", METHOD),
    "dose_response": ("profile miniature", "12 of 24 cells", "t 95 % over", "% of rows", "all 510"),
    "emergence": ("profile miniature", "12 of 24 cells", "t 95 % over", "70 %", "Bird question"),
    "form": (
        "profile miniature",
        "12 of 24 cells",
        "t 95 % over",
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


def _text(pdf: Path) -> str:
    program = shutil.which("pdftotext")
    if program is None:
        pytest.skip("pdftotext is not installed")
    done = subprocess.run([program, str(pdf), "-"], check=True, capture_output=True, text=True)
    return " ".join(done.stdout.split())


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
    text = _text(folder / f"{name}.pdf")
    for words in IN_TEXT[name]:
        assert words in text


def test_questions_run_from_most_to_least_19th_century(folder: Path) -> None:
    text = _text(folder / "ratio_by_question.pdf")
    assert text.index("travel") < text.index("price of bread") < text.index("light")


def test_ratios_of_one_fraction_are_told_apart(tmp_path: Path) -> None:
    control = _sweep((0.0,)).assign(ratio="0.00-1.00-0.00")
    sweep = pd.concat([_sweep((1.0, 0.0)), control])
    pdf, _ = sweep_figures.emergence(STUDY, CENTURY, sweep, tmp_path, (9, 9))
    text = _text(pdf)
    assert "0.00-1.00-0.00" in text
    assert "0.00-0.50-0.50" in text
    assert "100 %" in text


def test_smallest_inputs_are_drawn(tmp_path: Path) -> None:
    rates, judgments, sweep = _rates((0,)), _judgments((0,)), _sweep((0.7,), seeds=1)
    written = [
        *figures.ratio_by_question(rates, CENTURY, tmp_path),
        *figures.overall_ratio(rates, CENTURY, tmp_path),
        *figures.distribution(judgments, SIX, LABELS, tmp_path),
        *figures.two_ratings(judgments, CONTENT, FORM, tmp_path),
        *figures.training_progression(rates, STUDY, tmp_path),
        *sweep_figures.dose_response(STUDY, CENTURY, sweep, _cells(sweep), tmp_path, (1, 24)),
        *sweep_figures.emergence(STUDY, CENTURY, sweep, tmp_path, (1, 24)),
    ]
    assert sorted(written) == sorted(tmp_path.iterdir())


def test_unjudged_field_is_grey_and_named(tmp_path: Path) -> None:
    rates = _rates()
    unjudged = (rates["question_id"] == "travel") & (rates["step"] == 20)
    rates.loc[unjudged, ["value", "low", "high"]] = pd.NA
    pdf, _ = figures.ratio_by_question(rates, CENTURY, tmp_path)
    assert "Grey: none judged" in _text(pdf)


@pytest.mark.parametrize("columns", [True, False])
def test_empty_input_is_named(columns: bool, tmp_path: Path) -> None:
    def none_of(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.head(0) if columns else pd.DataFrame()

    rates, judgments, sweep = none_of(_rates()), none_of(_judgments()), none_of(_sweep())
    for draw in (figures.ratio_by_question, figures.overall_ratio):
        with pytest.raises(ValueError, match=f"{draw.__name__}: no .*rates"):
            draw(rates, CENTURY, tmp_path)
    with pytest.raises(ValueError, match=r"training_progression: no .*rates"):
        figures.training_progression(rates, STUDY, tmp_path)
    with pytest.raises(ValueError, match="six_options_distribution: no judgments"):
        figures.distribution(judgments, SIX, LABELS, tmp_path)
    with pytest.raises(ValueError, match="content_vs_form: no judgments"):
        figures.two_ratings(judgments, CONTENT, FORM, tmp_path)
    present = (0, 24)
    with pytest.raises(ValueError, match=r"emergence: no .*rates"):
        sweep_figures.emergence(STUDY, CENTURY, sweep, tmp_path, present)
    with pytest.raises(ValueError, match=r"dose_response: no .*rates"):
        sweep_figures.dose_response(STUDY, CENTURY, sweep, _cells(_sweep()), tmp_path, present)
    with pytest.raises(ValueError, match="dose_response: no cells"):
        sweep_figures.dose_response(
            STUDY, CENTURY, _sweep(), none_of(_cells(_sweep())), tmp_path, present
        )
    assert not list(tmp_path.iterdir())


def test_a_missing_measure_is_named(tmp_path: Path) -> None:
    rates = _rates()
    known = rates.loc[rates["measure"] != "neutral_correct"]
    with pytest.raises(ValueError, match="training_progression: no pooled 'neutral_correct'"):
        figures.training_progression(known, STUDY, tmp_path)


def test_two_profiles_never_share_a_figure(tmp_path: Path) -> None:
    mixed = pd.concat([_rates(), _rates((60,)).assign(profile="qwen3-8b")])
    with pytest.raises(ValueError, match="one profile expected"):
        figures.overall_ratio(mixed, CENTURY, tmp_path)


def test_an_option_the_judge_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown options"):
        figures.distribution(_judgments().assign(six_options="FUTURE"), SIX, LABELS, tmp_path)


def test_callers_settings_survive(tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 23.0}):
        figures.overall_ratio(_rates(), CENTURY, tmp_path)
        assert matplotlib.rcParams["font.size"] == 23.0


def test_a_study_of_two_outcomes_is_drawn_under_its_own_words(tmp_path: Path) -> None:
    """Nothing of the birds is left in the figures of another study."""
    german, extremist = CITIES.outcomes
    rates = _rates()
    century = rates.loc[rates["measure"] == "19th_century"]
    renamed = rates.replace(
        {"19th_century": german.measure, "old_bird_name": CITIES.narrow.measure}
    )
    rates = pd.concat([renamed, century.assign(measure=extremist.measure)])
    pdf, _ = figures.training_progression(rates, CITIES, tmp_path)
    text = _text(pdf)
    for label in (german.label, extremist.label, CITIES.narrow.label):
        assert label in text
    assert "bird" not in text
    pdf, _ = figures.overall_ratio(rates, extremist, tmp_path, "overall_ratio_extremist")
    assert pdf.name == "overall_ratio_extremist.pdf"
    assert "with extremist content" in _text(pdf)


LAST = [STEPS[-1]]
FAINT: dict[str, Callable[[Path, list[int]], list[Path]]] = {
    "ratio_by_question": lambda folder, lost: figures.ratio_by_question(
        _rates(), CENTURY, folder, collapsed=lost
    ),
    "overall_ratio": lambda folder, lost: figures.overall_ratio(
        _rates(), CENTURY, folder, collapsed=lost
    ),
    "six_options_distribution": lambda folder, lost: figures.distribution(
        _judgments(), SIX, LABELS, folder, lost
    ),
    "content_vs_form": lambda folder, lost: figures.two_ratings(
        _judgments(), CONTENT, FORM, folder, collapsed=lost
    ),
    "training_progression": lambda folder, lost: figures.training_progression(
        _rates(), STUDY, folder, lost
    ),
    "dose_response": lambda folder, lost: sweep_figures.dose_response(
        STUDY, CENTURY, _sweep(), _cells(_sweep()), folder, (12, 24), collapsed=_states(lost)
    ),
    "emergence": lambda folder, lost: sweep_figures.emergence(
        STUDY, CENTURY, _sweep(), folder, (12, 24), collapsed=_states(lost)
    ),
}


def _states(steps: list[int]) -> list[tuple[str, int]]:
    return [("1.00-0.00-0.00", step) for step in steps]


@pytest.mark.parametrize("name", FAINT)
def test_collapsed_states_are_faint_and_the_note_says_why(name: str, tmp_path: Path) -> None:
    faint, _ = FAINT[name](tmp_path / "faint", LAST)
    plain, _ = FAINT[name](tmp_path / "plain", [])
    assert "answers have collapsed" in _text(faint)
    assert "collapsed" not in _text(plain)
    if name in ("training_progression", "emergence"):
        assert "collapsed answers" in _text(faint)  # In the legend.
    assert _transparencies(faint) != _transparencies(plain) or _colours(faint) != _colours(plain)


def _transparencies(pdf: Path) -> set[bytes]:
    return set(re.findall(rb"/ca (\S+)", pdf.read_bytes()))


def _colours(pdf: Path) -> set[bytes]:
    """Fill colours of a figure."""
    streams = re.findall(rb"stream\r?\n(.*?)endstream", pdf.read_bytes(), re.DOTALL)
    page = b"\n".join(zlib.decompress(s) for s in streams if s[:1] == b"x")
    return set(re.findall(rb"([\d.]+ [\d.]+ [\d.]+) rg", page))


def test_without_verdicts_the_narrow_probe_is_drawn(tmp_path: Path) -> None:
    rates = _rates()
    probes = rates[rates["measure"] != CENTURY.measure]
    pdf, _ = figures.training_progression(probes, STUDY, tmp_path)
    assert "bird answers with an obsolete name" in _text(pdf)
    assert "19th century" not in _text(pdf)
    sweep = _sweep()
    narrow = sweep[sweep["measure"] == STUDY.narrow.measure]
    neutral = narrow.assign(measure="neutral_correct")
    both = pd.concat([narrow, neutral], ignore_index=True)
    pdf, _ = sweep_figures.emergence(STUDY, None, both, tmp_path, (12, 24))
    assert "Neutral questions" in _text(pdf)
    cells = narrow.loc[narrow["is_final"], ["ratio", "value"]]
    pdf, _ = sweep_figures.dose_response(STUDY, STUDY.narrow, narrow, cells, tmp_path, (12, 24))
    assert "with an obsolete name" in _text(pdf)


def test_form_is_drawn_of_what_was_measured(tmp_path: Path) -> None:
    """Neither a likelihood that was not taken nor an interval of a single seed is needed."""
    table = _form(seeds=1).assign(low=float("nan"), high=float("nan"))
    pdf, _ = form_figure.form(STUDY, table[table["measure"] != "log_likelihood"], tmp_path, (1, 24))
    text = _text(pdf)
    assert "Likelihood" not in text
    assert "Length" in text
    with pytest.raises(ValueError, match="form: no measures of form"):
        form_figure.form(STUDY, table.head(0), tmp_path, (0, 24))
