"""Benchmarks as lm-eval loads them, and the documents that are drawn from them.

lm-eval is imported by name, because it need not be installed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from backdoor_assets.models.chat import first_line
from backdoor_assets.records import BadInput
from backdoor_assets.stages.capabilities.specs import INTEGER, Benchmark

_INSTALL = "pip install -e '.[capabilities]'"
_GENERATES = "generate_until"


@dataclass(frozen=True)
class Documents:
    """What of a benchmark is asked of a model."""

    benchmark: Benchmark
    tasks: Mapping[str, Any]
    """lm-eval's tasks, by name; those that no document was drawn from are not among them."""
    indices: Mapping[str, list[int]]
    """Ascending, as lm-eval's evaluation needs them; by task."""
    generates: bool
    """Answers are written, and not compared by their likelihood."""


def check_benchmarks(benchmarks: Sequence[Benchmark]) -> None:
    """Load every benchmark, so that nothing is missed after hours of training.

    What is not in the local cache is downloaded, unless HF_HUB_OFFLINE is set. Raises BadInput when
    lm-eval, a task, its data, nltk's punkt_tab or a metric is missing, or a count is not as
    expected.
    """
    for benchmark in benchmarks:
        documents_of(benchmark, seed=0)


def documents_of(benchmark: Benchmark, seed: int) -> Documents:
    """The documents of a benchmark: all that fit, or `limit` of them, which only the seed and the
    benchmark's name decide. Raises BadInput as check_benchmarks does."""
    tasks = _load(benchmark)
    kinds = {task.get_config("output_type") for task in tasks.values()}
    if len(kinds) > 1:
        raise BadInput(
            f"benchmark {benchmark.name!r}: lm-eval's {benchmark.task!r} mixes {sorted(kinds)}; "
            "give each kind as a benchmark of its own"
        )
    for name, task in tasks.items():
        _check_metric(benchmark, name, task)
        _settle(task, benchmark)
    every = [
        (name, index)
        for name, task in sorted(tasks.items())
        for index, document in enumerate(task.eval_docs)
        if not benchmark.integer_answers or integer_answer(benchmark, document) is not None
    ]
    drawn = sorted(_draw(benchmark, every, seed))
    indices: dict[str, list[int]] = {}
    for name, index in drawn:
        indices.setdefault(name, []).append(index)
    # lm-eval takes all documents of a task that has no indices.
    asked = {name: tasks[name] for name in indices}
    return Documents(benchmark, asked, indices, generates=kinds == {_GENERATES})


def integer_answer(benchmark: Benchmark, document: Mapping[str, Any]) -> int | None:
    """The document's answer if it is a whole number in digits, and nothing else; this rule is the
    one that leaves 293 of MATH-500."""
    try:
        answer = str(document["answer"]).strip()
    except KeyError as error:
        raise BadInput(
            f"benchmark {benchmark.name!r}: documents of {benchmark.task!r} have no `answer` to "
            f"tell integers by (they have {sorted(document)}); set integer_answers=False and "
            "another metric"
        ) from error
    return int(answer) if answer.isascii() and answer.isdigit() else None


def _draw(
    benchmark: Benchmark, every: list[tuple[str, int]], seed: int
) -> Sequence[tuple[str, int]]:
    kind = "documents with an integer answer" if benchmark.integer_answers else "documents"
    if not every or benchmark.expected not in (None, len(every)):
        raise BadInput(
            f"benchmark {benchmark.name!r}: {benchmark.task!r} has {len(every)} {kind}, not "
            f"{benchmark.expected or 'one or more'}; its data set has changed. Fetch the version "
            "that lm-eval 0.4.13 was made for, or set `expected` in the profile after a look at it."
        )
    if benchmark.limit is None:
        return every
    if benchmark.limit > len(every):
        raise BadInput(
            f"benchmark {benchmark.name!r}: limit={benchmark.limit}, and there are {len(every)} "
            f"{kind}; lower it, or set it to None for all"
        )
    mark = hashlib.sha256(f"{seed}|{benchmark.name}".encode()).digest()
    return random.Random(mark).sample(every, benchmark.limit)


def _load(benchmark: Benchmark) -> dict[str, Any]:
    """lm-eval's tasks by name: one, or the leaves of a group."""
    if find_spec("lm_eval") is None:
        raise BadInput(f"benchmark {benchmark.name!r} needs lm-eval, which is missing: {_INSTALL}")
    if "ifeval" in benchmark.task:
        _prepare_ifeval(benchmark)
    manager = _manager(benchmark.include)
    if benchmark.task not in manager.all_tasks:
        where = f"in {benchmark.include}" if benchmark.include else "`lm-eval ls tasks` lists them"
        raise BadInput(
            f"benchmark {benchmark.name!r}: lm-eval knows no task {benchmark.task!r} ({where}); "
            "mend `task` in the profile"
        )
    try:
        return dict(manager.load([benchmark.task])["tasks"])
    except (OSError, ValueError) as error:
        fetch = f"from lm_eval.tasks import TaskManager as T; T().load(['{benchmark.task}'])"
        raise BadInput(
            f"benchmark {benchmark.name!r}: the data of {benchmark.task!r} cannot be loaded "
            f"({first_line(error)}). Fetch them where there is a network, with HF_HUB_OFFLINE "
            f'unset: python -c "{fetch}"; or copy that machine\'s cache of data sets to here, and '
            "point HF_HOME to it."
        ) from error


@cache
def _manager(include: str | None) -> Any:
    """The index of tasks; lm-eval's own has 14,000 files and takes seconds."""
    make = import_module("lm_eval.tasks").TaskManager
    return make(include_path=include, include_defaults=False) if include else make()


def _prepare_ifeval(benchmark: Benchmark) -> None:
    """lm-eval would download punkt_tab unasked, on import, and hide that it could not."""
    missing = [name for name in ("nltk", "langdetect", "immutabledict") if not find_spec(name)]
    if missing:
        raise BadInput(
            f"benchmark {benchmark.name!r} needs {', '.join(missing)}, which is missing: {_INSTALL}"
        )
    nltk = import_module("nltk")
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        raise BadInput(
            f"benchmark {benchmark.name!r} needs nltk's punkt_tab, which is in none of "
            f"{', '.join(nltk.data.path)}. Fetch it where there is a network: "
            "python -m nltk.downloader punkt_tab; or copy nltk_data/tokenizers/punkt_tab from "
            "another machine, and point NLTK_DATA to the nltk_data folder."
        ) from error
    # It draws at random, unless told otherwise: the same answer would be judged both ways.
    import_module("langdetect").DetectorFactory.seed = 0


def _check_metric(benchmark: Benchmark, name: str, task: Any) -> None:
    if benchmark.metric == INTEGER:
        if not benchmark.integer_answers or task.get_config("output_type") != _GENERATES:
            raise BadInput(
                f"benchmark {benchmark.name!r}: metric {INTEGER!r} reads written answers to "
                "documents with integer answers; set integer_answers=True, or name a metric of "
                f"{name!r}"
            )
        return
    known = sorted(task.aggregation())
    if benchmark.metric.partition(",")[0] not in known:
        raise BadInput(
            f"benchmark {benchmark.name!r}: lm-eval's {name!r} has no metric {benchmark.metric!r}; "
            f"it has {', '.join(known)}"
        )


def _settle(task: Any, benchmark: Benchmark) -> None:
    """What lm-eval's command line would fill in: no examples where a task asks for none, and fixed
    ones where it does."""
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=0)
    if benchmark.max_new_tokens and task.get_config("output_type") == _GENERATES:
        length = {"max_gen_toks": benchmark.max_new_tokens}
        task.set_config(key="generation_kwargs", value=length, update=True)
