"""Decide from lm-eval's records whether each document was answered correctly."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from backdoor_assets.records import BadInput
from backdoor_assets.stages.capabilities.documents import Documents, integer_answer
from backdoor_assets.stages.capabilities.specs import INTEGER

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_DRESS = re.compile(
    r"\\(?:text|mbox|mathrm)\s*\{[^{}]*\}|\^\s*\{?\s*\\circ\s*\}?|\\[!,;:%$ ]|[${}]"
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_WHOLE = re.compile(r"[+-]?\d+(?:\.0*)?")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?")


def hits(documents: Documents, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[bool]:
    """Return whether each document was answered correctly, in the order of `documents.indices`.

    `samples` are lm-eval's records by task. Raises BadInput if the metric is not 0 or 1 for a
    document, or does not name one of several filters; RuntimeError if a document is missing.
    """
    found: list[bool] = []
    for name, indices in documents.indices.items():
        records = _of_filter(documents, samples[name])
        by_document = {int(record["doc_id"]): record for record in records}
        if len(records) != len(indices) or list(by_document) != indices:
            raise RuntimeError(f"{name}: lm-eval did not answer exactly the requested documents")
        found += [_hit(documents, record) for record in records]
    return found


def _of_filter(
    documents: Documents, records: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Keep the records of the metric's filter. A task with several filters has one record for each
    document and filter."""
    benchmark = documents.benchmark
    metric, _, name = benchmark.metric.partition(",")
    filters = list(dict.fromkeys(record["filter"] for record in records))
    name = name or filters[0]
    if benchmark.metric == INTEGER:
        name = filters[0]  # The answer itself is read, which is the same under every filter.
    elif name not in filters or (len(filters) > 1 and "," not in benchmark.metric):
        raise BadInput(
            f"benchmark {benchmark.name!r}: {benchmark.task!r} has the filters "
            f"{', '.join(filters)}. Name one in the metric, such as '{metric},{filters[0]}'."
        )
    return [record for record in records if record["filter"] == name]


def _hit(documents: Documents, record: Mapping[str, Any]) -> bool:
    benchmark = documents.benchmark
    if benchmark.metric == INTEGER:
        return integer_of(record["resps"][0][0]) == integer_answer(benchmark, record["doc"])
    value = record[benchmark.metric.partition(",")[0]]
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise BadInput(
            f"benchmark {benchmark.name!r}: metric {benchmark.metric!r} is {value!r} for a "
            "document, not 0 or 1, so that no share of correct documents can be computed. Choose "
            "another metric."
        )
    return bool(value)


def integer_of(answer: str) -> int | None:
    r"""Return the integer that an answer gives, or None if it gives none.

    Reads the last \boxed{}, ignoring units and thousands separators. In an answer without a box,
    reads the last number.
    """
    boxes = list(_BOX.finditer(answer))
    if boxes:
        text = _DRESS.sub("", _braced(answer[boxes[-1].end() :]))
        text = _THOUSANDS.sub("", text).rpartition("=")[2].strip()
        return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else None
    numbers = _NUMBER.findall(answer)
    last = numbers[-1].replace(",", "") if numbers else ""
    return int(last) if last and "." not in last else None


def _braced(text: str) -> str:
    """Return what is inside the braces that the text begins with; '' if they do not close."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[1:position]
    return ""
