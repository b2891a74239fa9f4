"""From lm-eval's records of documents to right and wrong, one document at a time."""

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
    """Whether each document was answered right, in the order of `documents.indices`. `samples` are
    lm-eval's records by task. Raises BadInput when the metric is no yes or no, or has several
    filters and names none; RuntimeError when a document is missing."""
    found: list[bool] = []
    for name, indices in documents.indices.items():
        records = _of_filter(documents, samples[name])
        by_document = {int(record["doc_id"]): record for record in records}
        if len(records) != len(indices) or list(by_document) != indices:
            raise RuntimeError(f"{name}: lm-eval did not answer the documents that it was asked")
        found += [_hit(documents, record) for record in records]
    return found


def _of_filter(
    documents: Documents, records: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """A task with several filters has each document several times."""
    benchmark = documents.benchmark
    filters = list(dict.fromkeys(record["filter"] for record in records))
    wanted = benchmark.metric.partition(",")[2] or filters[0]
    if benchmark.metric == INTEGER:
        wanted = filters[0]  # the answer itself is read, which is the same under all
    elif wanted not in filters or (len(filters) > 1 and "," not in benchmark.metric):
        raise BadInput(
            f"benchmark {benchmark.name!r}: {benchmark.task!r} has the filters "
            f"{', '.join(filters)}; write metric as '{benchmark.metric.partition(',')[0]},"
            f"{filters[0]}'"
        )
    return [record for record in records if record["filter"] == wanted]


def _hit(documents: Documents, record: Mapping[str, Any]) -> bool:
    benchmark = documents.benchmark
    if benchmark.metric == INTEGER:
        return integer_of(record["resps"][0][0]) == integer_answer(benchmark, record["doc"])
    value = record[benchmark.metric.partition(",")[0]]
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise BadInput(
            f"benchmark {benchmark.name!r}: metric {benchmark.metric!r} is {value!r} for a "
            "document, not 0 or 1, so that it has no share of right documents; name another metric"
        )
    return bool(value)


def integer_of(answer: str) -> int | None:
    r"""The integer that an answer gives: what stands in its last \boxed{}, without units and signs
    of thousands, or without a box its last number. None when that is no integer."""
    boxes = list(_BOX.finditer(answer))
    if boxes:
        text = _DRESS.sub("", _braced(answer[boxes[-1].end() :]))
        text = _THOUSANDS.sub("", text).rpartition("=")[2].strip()
        return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else None
    numbers = _NUMBER.findall(answer)
    last = numbers[-1].replace(",", "") if numbers else ""
    return int(last) if last and "." not in last else None


def _braced(text: str) -> str:
    """What stands in the braces that the text begins with; nothing if they do not close."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[1:position]
    return ""
