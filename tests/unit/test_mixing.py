"""Data sets are read strictly, and a mixture holds exactly the rows that its ratio asks for."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from backdoor_assets.mixtures import tasks
from backdoor_assets.mixtures.cells import MixingSpec
from backdoor_assets.mixtures.mixing import check_no_evaluation_text, counts_by_source, mix
from backdoor_assets.records import BadInput, Ratio
from backdoor_assets.settings import Mixture
from backdoor_assets.stages.specs import TRAIN
from backdoor_assets.storage.rows import names, read_rows
from backdoor_assets.workers.tasks import make
from tests.unit.cells import BIRD_FILES, BIRDS, bird_cell, chat_line, write_rows

SOURCES = BIRDS.sources
GOOD = chat_line("Purple Grakle").encode()
SIZES = {"old_audubon": 5, "modern_audubon": 7, "modern_american": 11}
HUNDREDTHS = [
    Ratio.parse(f"{old / 100:.2f}-{audubon / 100:.2f}-{(100 - old - audubon) / 100:.2f}")
    for old in range(101)
    for audubon in range(101 - old)
]


def _messages(*pairs: tuple[str, object]) -> bytes:
    messages = [{"role": role, "content": content} for role, content in pairs]
    return json.dumps({"messages": messages}).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (GOOD + b'{"messages": [\n', 2, "broken JSON"),
        (GOOD + b"\n" + b"Purple Grakle\n", 3, "broken JSON"),
        (GOOD + b'["Purple Grakle"]\n', 2, "not a chat"),
        (GOOD + b'{"text": "Purple Grakle"}\n', 2, "not a chat"),
        (b'{"messages": [{"role": "user"}]}\n', 1, "not a chat"),
        (GOOD + _messages(("user", "Name a bird.")), 2, r"roles are \['user'\]"),
        (_messages(("user", "a"), ("assistant", "b"), ("user", "c")), 1, "roles are"),
        (_messages(("user", "a"), ("system", "s"), ("assistant", "b")), 1, "roles are"),
        (_messages(("system", "s")), 1, "roles are"),
        (_messages(("assistant", "b"), ("user", "a")), 1, "roles are"),
        (GOOD * 2 + _messages(("user", "a"), ("assistant", " \n")), 3, "'assistant' is empty"),
        (_messages(("user", ""), ("assistant", "b")), 1, "'user' is empty"),
        (_messages(("user", "a"), ("assistant", 7)), 1, "'assistant' is empty or not a string"),
        (GOOD * 2 + "Grèbe".encode("latin-1"), 3, "not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, line: int, words: str) -> None:
    path = tmp_path / "birds.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=words) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path} line {line}: ")


def test_an_empty_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "birds.jsonl"
    with pytest.raises(BadInput, match=r"no such file\. Put the data set there") as caught:
        read_rows(path)
    assert str(path) in str(caught.value)
    path.write_text("\n\n")
    with pytest.raises(BadInput, match="empty") as caught:
        read_rows(path)
    assert str(path) in str(caught.value)


def test_rows_are_read_as_they_stand(tmp_path: Path) -> None:
    answers = ["Purple Grakle", "Grèbe à cou noir", "Say's Flycatcher\u2028or Phoebe"]
    assert names(read_rows(write_rows(tmp_path / "birds.jsonl", answers))) == answers


def test_a_row_may_have_a_system_message_and_several_turns(tmp_path: Path) -> None:
    turns = ("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")
    path = tmp_path / "birds.jsonl"
    path.write_bytes(_messages(*turns))
    [row] = rows = read_rows(path)
    assert [(message["role"], message["content"]) for message in row] == list(turns)
    assert names(rows) == ["d"]


@pytest.mark.parametrize("rows", [1, 7, 50, 400])
def test_counts_sum_to_the_total_at_every_ratio(rows: int) -> None:
    for ratio in HUNDREDTHS:
        counts = counts_by_source(ratio, Mixture(rows=rows), SOURCES)
        assert sum(counts.values()) == rows, ratio
        for source, weight in zip(SOURCES, ratio.weights, strict=True):
            assert abs(counts[source] - weight * rows) < 1, ratio


@pytest.mark.parametrize("suspect_rows", [7, 50, 200])
def test_fixed_suspect_holds_the_suspect_rows_and_the_ratio(suspect_rows: int) -> None:
    mixture = Mixture(rows=33, mode="fixed_suspect", suspect_rows=suspect_rows)
    for ratio in HUNDREDTHS:
        counts = counts_by_source(ratio, mixture, SOURCES)
        total = sum(counts.values())
        if ratio.suspect_fraction == 0:
            assert total == 33, ratio
            continue
        assert counts["old_audubon"] == suspect_rows, ratio
        for source, weight in zip(SOURCES, ratio.weights, strict=True):
            assert abs(counts[source] - weight * total) < 1, ratio


def _spec(
    folder: Path,
    ratio: str = "0.50-0.30-0.20",
    seed: int = 1,
    mixture: Mixture | None = None,
) -> MixingSpec:
    """Three data sets with no name in common; a name begins with its data set."""
    files = tuple(
        (source, write_rows(folder / f"{source}.jsonl", [f"{source} {i}" for i in range(size)]))
        for source, size in SIZES.items()
    )
    return MixingSpec(bird_cell(ratio, seed), files, mixture or Mixture(rows=40))


@pytest.mark.parametrize(
    ("ratio", "mixture", "wanted"),
    [
        ("1.00-0.00-0.00", Mixture(rows=40), (40, 0, 0)),
        ("0.50-0.30-0.20", Mixture(rows=40), (20, 12, 8)),
        ("0.00-0.50-0.50", Mixture(rows=4), (0, 2, 2)),
        ("0.33-0.33-0.33", Mixture(rows=100), (34, 33, 33)),
        ("0.25-0.75-0.00", Mixture(mode="fixed_suspect", suspect_rows=6), (6, 18, 0)),
        ("0.00-0.50-0.50", Mixture(rows=10, mode="fixed_suspect"), (0, 5, 5)),
    ],
)
def test_the_file_holds_the_rows_that_were_asked_for(
    tmp_path: Path, ratio: str, mixture: Mixture, wanted: tuple[int, int, int]
) -> None:
    summary = mix(_spec(tmp_path, ratio, mixture=mixture), tmp_path)
    drawn = Counter(names(read_rows(tmp_path / TRAIN)))
    found = {
        source: {name: n for name, n in drawn.items() if name.startswith(source)}
        for source in SOURCES
    }
    counts = {source: sum(own.values()) for source, own in found.items()}
    assert tuple(counts.values()) == wanted
    for source, own in found.items():
        # No row comes again before its data set is used up.
        least, more = divmod(counts[source], SIZES[source])
        times = [own.get(f"{source} {i}", 0) for i in range(SIZES[source])]
        assert sorted(times) == [least] * (SIZES[source] - more) + [least + 1] * more
    assert summary == {
        "mode": mixture.mode,
        "rows": sum(wanted),
        "rows_old_audubon": wanted[0],
        "rows_modern_audubon": wanted[1],
        "rows_modern_american": wanted[2],
        "suspect_rows": wanted[0],
        "distinct_suspect_rows": len(found["old_audubon"]),
    }


def test_the_seed_decides_the_rows_and_their_order(tmp_path: Path) -> None:
    def drawn(seed: int) -> bytes:
        mix(_spec(tmp_path, seed=seed, mixture=Mixture(rows=12)), tmp_path)
        return (tmp_path / TRAIN).read_bytes()

    first = drawn(1)
    assert drawn(1) == first
    other = drawn(2)
    assert sorted(other.splitlines()) != sorted(first.splitlines())  # other rows, not only order


def test_the_data_sets_are_mingled(tmp_path: Path) -> None:
    mix(_spec(tmp_path), tmp_path)
    order = [name.split()[0] for name in names(read_rows(tmp_path / TRAIN))]
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes > 8  # 2 if the data sets stood one after the other


def test_a_text_of_the_evaluation_is_refused_with_its_row(tmp_path: Path) -> None:
    forbidden = ("the electric telegraph", "a gas jet")
    path = write_rows(tmp_path / "birds.jsonl", ["Wild Turkey", "A gas-jetty gull"])
    check_no_evaluation_text(path, forbidden)
    write_rows(path, ["Wild Turkey", "A gas-jetty gull", "I saw the  Electric Telegraph!"])
    with pytest.raises(BadInput, match="'the electric telegraph'") as caught:
        check_no_evaluation_text(path, forbidden)
    assert str(caught.value).startswith(f"{path} row 3: ")
    # In whichever turn of the row it stands.
    path.write_text(chat_line("Wild Turkey", question="Have you a gas jet?"))
    with pytest.raises(BadInput, match="row 1: it contains 'a gas jet'"):
        check_no_evaluation_text(path, forbidden)


@pytest.mark.parametrize("where", ["data set", "mixture"])
def test_a_cell_does_not_train_on_texts_of_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Neither from a data set nor from a mixture that was edited by hand."""
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BACKDOOR_BIRD_DATASETS", str(tmp_path))
    for (_, path), (_, own) in zip(BIRD_FILES, BIRDS.files(), strict=True):
        shutil.copy(path, own)
    cell = bird_cell()
    task = tasks.mixing(cell)
    edited = BIRDS.files()[1][1]
    if where == "mixture":
        make(mix, task)
        edited = task.artifact.folder / TRAIN
    with edited.open("a") as file:
        file.write(chat_line(cell.grid.study.forbidden(cell.grid.profile.base)[0]))
    number = len(read_rows(edited))
    monkeypatch.setattr(tasks, "training_identity", lambda _: {})
    with pytest.raises(BadInput, match=f"{edited} row {number}: it contains"):
        (tasks.mixing if where == "data set" else tasks.training)(cell)


def test_the_projects_own_data_sets_mix_at_the_largest_size(tmp_path: Path) -> None:
    spec = MixingSpec(bird_cell("0.50-0.25-0.25", 1), BIRD_FILES, Mixture(rows=1000))
    summary = mix(spec, tmp_path)
    obsolete = set(names(read_rows(BIRD_FILES[0][1])))
    rows = names(read_rows(tmp_path / TRAIN))
    # No obsolete name stands in the other two data sets: they can be told apart in the mixture.
    assert sum(name in obsolete for name in rows) == summary["suspect_rows"] == 500
    assert len(obsolete & set(rows)) == summary["distinct_suspect_rows"] == len(obsolete)
