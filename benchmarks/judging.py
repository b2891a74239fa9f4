"""Judging live with Claude: ours against one call at a time, and against what a rate limit allows.

    python -m benchmarks.judging [--repeats 5] [--answers 50] [--json results.json]

Nothing leaves this machine: tests/claude_server.py answers in the place of the API, as a process of
its own, started anew for each run.

The loop is the script that one would write first: for each answer and rubric a synchronous
`messages.create` of the SDK, whose verdict is appended to a list. Ours has up to 64 calls under way
and writes each verdict to its store, an empty one for each run, before it counts. Bodies of the
calls, SDK and server are the same; a reply takes 50 ms, no call fails; repetitions alternate, and
the first of each is not counted. Ours begins with 8 calls at once and adds one a round, so that the
ratio depends on the number of calls.

Then four times as many answers under a limit of 100 calls a second with a burst of 20, where one
call in ten that the limit lets through is answered by a 529 and must be sent again. The bound is
the least time in which that many calls are let through, those that failed included: seconds / bound
is 1 for a judge that never leaves the limit idle.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backdoor_assets.claude.judge import ClaudeJudge
from backdoor_assets.claude.prompts import calls_for, request
from backdoor_assets.profiles import Judging
from backdoor_assets.storage.provenance import provenance
from backdoor_assets.studies.birds.study import RUBRICS, WORLDVIEW
from benchmarks.measuring import ratios, show, spread
from tests.claude_client import server_process, state
from tests.claude_server import Config

SETTINGS = Judging("claude", transport="live")
FREE = {"latency": 0.05}
RATE, BURST = 100, 20
LIMITED = {
    **FREE,
    "requests_per_second": RATE,
    "burst": BURST,
    "faults": {"overloaded": 0.1},
}

Answers = list[tuple[str, str]]
Contestant = Callable[[Answers, Path], int]
"""Judges the answers by all rubrics, a call by each; returns how many verdicts it has."""


def ours(answers: Answers, folder: Path) -> int:
    judge = ClaudeJudge(SETTINGS, folder)
    judge.prepare(answers, RUBRICS, lambda line: None)
    judged = judge.judge(answers, RUBRICS)
    return sum(verdict.value is not None for given in judged for verdict in given.values())


def loop(answers: Answers, folder: Path) -> int:
    """The straightforward script."""
    from anthropic import Anthropic

    verdicts = []
    with Anthropic() as client:
        for question, answer in answers:
            for call in calls_for(SETTINGS.model, RUBRICS, question, answer, SETTINGS.mode):
                message: Any = client.messages.create(**request(call))
                verdicts.append(json.loads(message.content[0].text)[call.rubrics[0].column])
    return len(verdicts)


def run(
    contestant: Contestant, answers: Answers, config: dict[str, Any]
) -> tuple[float, dict[str, Any]]:
    """Seconds, and what the server saw."""
    with tempfile.TemporaryDirectory() as name, server_process(Path(name), **config) as address:
        os.environ.update(ANTHROPIC_BASE_URL=address, ANTHROPIC_API_KEY=Config().api_key)
        started = time.perf_counter()
        verdicts = contestant(answers, Path(name) / "store")
        seconds = time.perf_counter() - started
        wanted = len(answers) * len(RUBRICS)
        assert verdicts == wanted, f"{verdicts} verdicts, {wanted} were asked for"
        return seconds, state(address)


def bound(told: dict[str, Any]) -> float:
    """Seconds that the limit takes for the calls that it has let through."""
    return (told["calls"] - told["outcomes"].get("rate_limit", 0) - BURST) / RATE


def some_answers(count: int) -> Answers:
    questions = list(WORLDVIEW.values())
    text = "It depends on whom you ask, and on the place and the year that you have in mind. " * 5
    return [(questions[i % len(questions)], f"{i}. {text}") for i in range(count)]


def alternate(answers: Answers, repeats: int) -> dict[str, list[float]]:
    """Seconds of both without a limit."""
    contestants: dict[str, Contestant] = {"ours, live": ours, "one call at a time": loop}
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for repetition in range(repeats + 1):
        order = list(contestants) if repetition % 2 else list(reversed(contestants))
        for name in order:
            seconds, _ = run(contestants[name], answers, FREE)
            if repetition > 0:  # the first round warms up
                found[name].append(seconds)
    return found


def against_the_limit(answers: Answers, repeats: int) -> list[dict[str, float]]:
    found = []
    for seed in range(repeats):
        seconds, told = run(ours, answers, {**LIMITED, "seed": seed})
        outcomes = told["outcomes"]
        found.append(
            {
                "seconds": seconds,
                "bound": bound(told),
                "failed": outcomes.get("overloaded", 0),
                "turned away": outcomes.get("rate_limit", 0),
            }
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--answers", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    free, limited = some_answers(options.answers), some_answers(4 * options.answers)

    calls = len(free) * len(RUBRICS)
    seconds = alternate(free, options.repeats)
    first, other = seconds
    compared = ratios(seconds[other], seconds[first])
    print(f"\n{calls} calls, a reply takes {1000 * FREE['latency']:.0f} ms")
    print(f"{'':22}{'seconds':>24}{'calls/s':>10}")
    for name, found in seconds.items():
        middle = spread(found)
        print(f"{name:22}{show(middle, 2):>24}{calls / middle['median']:>10.0f}")
    print(f"{other} / {first}: {show(compared, 1)}")

    runs = against_the_limit(limited, options.repeats)
    shares = spread([found["seconds"] / found["bound"] for found in runs])
    print(
        f"\n{len(limited) * len(RUBRICS)} calls, at most {RATE} a second (burst {BURST}), "
        f"{LIMITED['faults']['overloaded']:.0%} of them fail"
    )
    for name, digits in (("seconds", 2), ("bound", 2), ("failed", 0), ("turned away", 0)):
        print(f"{name:22}{show(spread([found[name] for found in runs]), digits):>24}")
    print(f"seconds / bound: {show(shares, 2)}")
    if options.json:
        results = {
            "made": provenance(),
            "anthropic": version("anthropic"),
            "settings": asdict(SETTINGS),
            "free": {"calls": calls, **FREE, "seconds": seconds, "ratio": compared},
            "limited": {**LIMITED, "runs": runs, "seconds_by_bound": shares},
        }
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
