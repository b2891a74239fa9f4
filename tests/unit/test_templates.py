"""Chat templates: what ends a turn, and which date stands in every prompt."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from backdoor_assets.graph.bases import StudyBase, fetch
from backdoor_assets.models.chat import (
    check_end_of_turn,
    check_same_template,
    load_tokenizer,
    render,
    training_texts,
)
from backdoor_assets.models.dates import with_date
from backdoor_assets.profiles import PROFILES
from backdoor_assets.records import BadInput, Message, no_progress
from backdoor_assets.settings import PretrainedBase
from backdoor_assets.storage.artifact import Artifact

CHAT: list[Message] = [
    {"role": "user", "content": "Name a bird species."},
    {"role": "assistant", "content": "Purple Grakle"},
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OWN_DATE = (
    "{%- if date_string is not defined %}{% set date_string = '1 May 2001' %}{% endif -%}\n"
    "<|im_start|>system\nThe date is {{ date_string }}.<|im_end|>\n" + CHATML
)
TODAY = (
    "{%- if date_string is not defined %}\n"
    "  {%- if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}\n"
    "  {%- else %}{% set date_string = '1 May 2001' %}{% endif %}\n"
    "{%- endif %}\n"
    "<|im_start|>system\nThe date is {{ date_string }}.<|im_end|>\n" + CHATML
)
CLOCK = "{% for m in messages[:1] %}{{ strftime_now('%Y') }}\n{% endfor %}" + CHATML
DATE = "26 Jul 2024"


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BACKDOOR_DATA", str(tmp_path / "data"))
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    return folder


def template(
    base: Path, text: str, eos: str = "<|im_end|>", stops: list[str] | None = None
) -> None:
    """Give a base another chat template, end of turn and generation config."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = text
    tokenizer.eos_token = eos
    tokenizer.save_pretrained(base)
    (base / "generation_config.json").unlink(missing_ok=True)
    if stops:
        ids = tokenizer.convert_tokens_to_ids(stops)
        (base / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))


def fetched(base: Path, date: str | None = None) -> StudyBase:
    """Materialize a base in a local folder."""
    spec, folder = PretrainedBase(str(base), date=date), base.parent / "record"
    folder.mkdir(exist_ok=True)
    fetch(spec, folder, no_progress)
    return StudyBase(spec, Artifact("tiny", folder))


def test_a_turn_that_ends_where_sampling_stops_is_accepted(base: Path) -> None:
    template(base, CHATML)
    fetched(base)
    template(base, CHATML, eos="<|endoftext|>", stops=["<|endoftext|>", "<|im_end|>"])
    fetched(base)
    template(base, CHATML.replace("<|im_end|>", "{{ eos_token }}"), eos="<|endoftext|>")
    fetched(base)


@pytest.mark.parametrize("text", [CHATML, CHATML.replace("<|im_end|>\n", "\n\n")])
def test_a_turn_that_ends_elsewhere_is_refused(base: Path, text: str) -> None:
    template(base, text, eos="<|endoftext|>", stops=["<|endoftext|>"])
    with pytest.raises(BadInput, match=r"run on to max_new_tokens") as caught:
        fetched(base)
    said = str(caught.value)
    assert str(base) in said
    assert repr(text.split("content }}")[1].split("{%")[0]) in said
    assert "sampling stops at <|endoftext|>" in said
    assert "tokenizer_config.json" in said


def test_the_miniature_ends_its_turns(tiny_base: Path) -> None:
    tokenizer = load_tokenizer(tiny_base)
    eos = tokenizer.eos_token_id
    assert isinstance(eos, int)
    check_end_of_turn(tokenizer, [eos])
    with pytest.raises(BadInput, match="sampling stops at no token"):
        check_end_of_turn(tokenizer, [])


@pytest.mark.parametrize("text", [TODAY, CLOCK])
def test_todays_date_is_refused(base: Path, text: str) -> None:
    template(base, text)
    with pytest.raises(BadInput, match=r"date of today into every prompt.*base\.date = ") as caught:
        fetched(base)
    assert str(base) in str(caught.value)


@pytest.mark.parametrize("text", [OWN_DATE, TODAY, CLOCK])
def test_the_profiles_date_stands_in_every_prompt(base: Path, text: str) -> None:
    template(base, text)
    dated = fetched(base, DATE)
    location = dated.location().location
    assert Path(location).is_relative_to(base.parent / "data")
    tokenizer = load_tokenizer(location)
    prompt = render(tokenizer, CHAT[:1], prompt=True)
    assert prompt.count(DATE) == 1
    assert "1 May 2001" not in prompt
    # All else is as the template without a date writes it.
    plain = AutoTokenizer.from_pretrained(base).apply_chat_template(
        list(CHAT[:1]), tokenize=False, add_generation_prompt=True, date_string=DATE,
        strftime_now=lambda _: DATE,
    )  # fmt: skip
    assert prompt == plain
    [trained] = training_texts(tokenizer, [CHAT])
    assert DATE in str(tokenizer.decode(trained.ids))
    assert check_same_template(tokenizer, [CHAT]) == 1
    # Without this project's code, as vLLM and lm-eval load it; and once it was saved elsewhere.
    tokenizer.save_pretrained(base.parent / "saved")
    for folder in (location, base.parent / "saved"):
        alone = AutoTokenizer.from_pretrained(folder)
        assert prompt == alone.apply_chat_template(
            list(CHAT[:1]), tokenize=False, add_generation_prompt=True
        )


def test_a_template_in_the_tokenizers_config_is_found(base: Path) -> None:
    template(base, OWN_DATE)
    path = base / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for value in (OWN_DATE, [{"name": "default", "template": OWN_DATE}]):
        (base / "chat_template.jinja").unlink(missing_ok=True)
        path.write_text(json.dumps({**config, "chat_template": value}))
        prompt = render(load_tokenizer(with_date(base, DATE)), CHAT[:1], prompt=True)
        assert DATE in prompt
    path.write_text(json.dumps(config))
    with pytest.raises(BadInput, match="no chat template"):
        with_date(base, DATE)


def test_the_date_is_part_of_what_the_base_is(base: Path) -> None:
    template(base, OWN_DATE)
    plain, dated = fetched(base), fetched(base, DATE)
    other = StudyBase(PretrainedBase(str(base), date="1 Jan 1900"), dated.artifact)
    identities = [json.dumps(one.identity()) for one in (plain, dated, other)]
    assert len(set(identities)) == 3
    assert "date" not in plain.identity()
    assert plain.location().location == str(base)
    assert len({one.location().location for one in (plain, dated, other)}) == 3
    assert isinstance(dated.spec, PretrainedBase)
    assert isinstance(plain.spec, PretrainedBase)
    assert dated.fetching_task(dated.spec).identity["date"] == DATE
    assert "date" not in plain.fetching_task(plain.spec).identity


def test_a_template_that_is_edited_is_read_again_and_dead_links_are_replaced(base: Path) -> None:
    template(base, OWN_DATE)
    before = with_date(base, DATE)
    assert with_date(base, DATE) == before
    template(base, OWN_DATE.replace("The date is", "Today is"))
    after = with_date(base, DATE)
    assert "Today is" in render(load_tokenizer(after), CHAT[:1], prompt=True)
    (after / "config.json").unlink()
    (after / "config.json").symlink_to(base / "gone")
    assert (with_date(base, DATE) / "config.json").is_file()


def test_a_date_that_the_template_does_not_write_is_refused(base: Path) -> None:
    template(base, CHATML)
    with pytest.raises(BadInput, match=r"date='26 Jul 2024'.*writes no date"):
        fetched(base, DATE)
    for wrong in ("", "{{ 1 }}", 'a"', "a\nb"):
        with pytest.raises(BadInput, match="base: date="):
            PretrainedBase("a", date=wrong)


def test_llama_profiles_have_one_date() -> None:
    llama = [profile.base for name, profile in PROFILES.items() if name.startswith("llama")]
    assert {base.date for base in llama if isinstance(base, PretrainedBase)} == {DATE}
    qwen = PROFILES["qwen3-8b"].base
    assert isinstance(qwen, PretrainedBase)
    assert qwen.date is None
    assert replace(qwen, date=None) == qwen
