"""Load lm-eval's benchmarks and draw documents from them.

lm-eval is an optional dependency, and is therefore imported by name.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from backdoor_assets.credentials import told
from backdoor_assets.records import BadInput
from backdoor_assets.stages.capabilities.specs import INTEGER, Benchmark
from backdoor_assets.storage.provenance import REPOSITORY

_INSTALL = "pip install -e '.[capabilities]'"
_GENERATES = "generate_until"


@dataclass(frozen=True)
class Documents:
    """The part of a benchmark that a model is asked."""

    benchmark: Benchmark
    tasks: Mapping[str, Any]
    """lm-eval's tasks by name, without those from which no document was drawn."""
    indices: Mapping[str, list[int]]
    """Indices of documents by task, in ascending order as lm-eval's evaluation needs them."""
    generates: bool
    """Whether the model writes answers, instead of comparing the likelihood of given ones."""


def documents_of(benchmark: Benchmark, seed: int) -> Documents:
    """Return the documents of a benchmark: all that qualify, or a random `limit` of them.

    The draw depends only on the seed and the benchmark's name. Raises BadInput as
    `check_benchmarks` does.
    """
    tasks = _load(benchmark)
    kinds = {task.get_config("output_type") for task in tasks.values()}
    if len(kinds) > 1:
        raise BadInput(
            f"benchmark {benchmark.name!r}: lm-eval's {benchmark.task!r} mixes the output types "
            f"{sorted(kinds)}. Make a separate benchmark for each."
        )
    for name, task in tasks.items():
        _check_metric(benchmark, name, task)
        _fill_defaults(task, benchmark)
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
    # lm-eval would ask all documents of a task that has no indices.
    asked = {name: tasks[name] for name in indices}
    return Documents(benchmark, asked, indices, generates=kinds == {_GENERATES})


def integer_answer(benchmark: Benchmark, document: Mapping[str, Any]) -> int | None:
    """Return the document's answer if it consists of digits only, else None.

    This rule selects 293 documents of MATH-500.
    """
    try:
        answer = str(document["answer"]).strip()
    except KeyError as error:
        raise BadInput(
            f"benchmark {benchmark.name!r}: documents of {benchmark.task!r} have no field "
            f"`answer`, only {sorted(document)}. Set integer_answers=False and another metric."
        ) from error
    return int(answer) if answer.isascii() and answer.isdigit() else None


def _draw(
    benchmark: Benchmark, every: list[tuple[str, int]], seed: int
) -> Sequence[tuple[str, int]]:
    kind = "documents with an integer answer" if benchmark.integer_answers else "documents"
    if not every or benchmark.expected not in (None, len(every)):
        raise BadInput(
            f"benchmark {benchmark.name!r}: {benchmark.task!r} has {len(every)} {kind}, not "
            f"{benchmark.expected or 'one or more'}: its data set has changed. Download the "
            "version that lm-eval 0.4.13 expects, or check the new one and set `expected` in the "
            "profile."
        )
    if benchmark.limit is None:
        return every
    if benchmark.limit > len(every):
        raise BadInput(
            f"benchmark {benchmark.name!r}: limit={benchmark.limit}, but there are only "
            f"{len(every)} {kind}. Lower the limit, or set it to None to use all."
        )
    draw_seed = hashlib.sha256(f"{seed}|{benchmark.name}".encode()).digest()
    return random.Random(draw_seed).sample(every, benchmark.limit)


def _load(benchmark: Benchmark) -> dict[str, Any]:
    """Load lm-eval's tasks by name: a single one, or all tasks of a group."""
    if find_spec("lm_eval") is None:
        raise BadInput(
            f"benchmark {benchmark.name!r} needs lm-eval, which is not installed: {_INSTALL}"
        )
    if "ifeval" in benchmark.task:
        _prepare_ifeval(benchmark)
    manager = _manager(benchmark.include and str(REPOSITORY / benchmark.include))
    if benchmark.task not in manager.all_tasks:
        known = (
            f"the files in {benchmark.include} define the tasks"
            if benchmark.include
            else "`lm-eval ls tasks` lists the tasks"
        )
        raise BadInput(
            f"benchmark {benchmark.name!r}: lm-eval has no task {benchmark.task!r} ({known}). "
            "Correct `task` in the profile."
        )
    # Its warnings while it loads are about options of its own command line.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        return dict(manager.load([benchmark.task])["tasks"])
    except (OSError, ValueError) as error:
        fetch = f"from lm_eval.tasks import TaskManager as T; T().load(['{benchmark.task}'])"
        raise BadInput(
            f"benchmark {benchmark.name!r}: the data of {benchmark.task!r} cannot be loaded "
            f"({told(error)}). Download them on a machine with network access, with "
            f'HF_HUB_OFFLINE unset: python -c "{fetch}". If that is another machine, copy its '
            "cache of data sets here and point HF_HOME to it."
        ) from None


@cache
def _manager(include: str | None) -> Any:
    """Return the index of tasks. Building lm-eval's own reads 14,000 files, which takes seconds."""
    manager = import_module("lm_eval.tasks").TaskManager
    return manager(include_path=include, include_defaults=False) if include else manager()


def _prepare_ifeval(benchmark: Benchmark) -> None:
    """Check IFEval's packages and data. lm-eval would download punkt_tab without asking when it is
    imported, and hide a failure."""
    missing = [name for name in ("nltk", "langdetect", "immutabledict") if not find_spec(name)]
    if missing:
        raise BadInput(
            f"benchmark {benchmark.name!r} needs {', '.join(missing)}, not installed: {_INSTALL}"
        )
    nltk = import_module("nltk")
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        raise BadInput(
            f"benchmark {benchmark.name!r} needs nltk's punkt_tab, which is in none of "
            f"{', '.join(nltk.data.path)}. Download it on a machine with network access: "
            "python -m nltk.downloader punkt_tab. If that is another machine, copy its "
            "nltk_data/tokenizers/punkt_tab here and point NLTK_DATA to the nltk_data folder."
        ) from error
    # Without a fixed seed, langdetect may judge the same answer differently each time.
    import_module("langdetect").DetectorFactory.seed = 0


def _check_metric(benchmark: Benchmark, name: str, task: Any) -> None:
    if benchmark.metric == INTEGER:
        if not benchmark.integer_answers or task.get_config("output_type") != _GENERATES:
            raise BadInput(
                f"benchmark {benchmark.name!r}: metric {INTEGER!r} needs written answers to "
                "documents with integer answers. Set integer_answers=True, or choose a metric of "
                f"{name!r}."
            )
        return
    known = sorted(task.aggregation())
    if benchmark.metric.partition(",")[0] not in known:
        raise BadInput(
            f"benchmark {benchmark.name!r}: lm-eval's {name!r} has no metric {benchmark.metric!r}. "
            f"Choose one of {', '.join(known)}."
        )


def _fill_defaults(task: Any, benchmark: Benchmark) -> None:
    """Fill in what lm-eval's command line would: no examples if the task does not ask for any, and
    the same examples every time if it does."""
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=0)
    if benchmark.max_new_tokens and task.get_config("output_type") == _GENERATES:
        length = {"max_gen_toks": benchmark.max_new_tokens}
        task.set_config(key="generation_kwargs", value=length, update=True)
