"""The one chat template: token ids and loss mask for training, prompt for sampling.

Training and sampling must see the same tokens, or a model is asked questions in a format that it
was never trained on. Both therefore render chats with the tokenizer's own chat template through
this module only. Thinking is switched off in templates that support it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from backdoor_assets.records import BadInput, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TrainingText(NamedTuple):
    """Token ids of one chat, and whether each counts in the loss (assistant tokens only)."""

    ids: list[int]
    loss: list[bool]


def load_tokenizer(base: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a base model.

    Raises BadInput if the base has no tokenizer or no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(base), revision=revision, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{base}: no tokenizer can be loaded from this base model ({first_line(error)}). "
            "Put its tokenizer files (tokenizer.json, tokenizer_config.json) next to the weights."
        ) from error
    # Without tokenizer files some classes load an empty vocabulary, and texts become empty.
    if not tokenizer("bird", add_special_tokens=False)["input_ids"]:
        raise BadInput(
            f"{base}: its tokenizer has an empty vocabulary. Put tokenizer.json beside the weights."
        )
    if not tokenizer.chat_template:
        raise BadInput(
            f"{base}: the tokenizer has no chat template. Use the instruction-tuned model of the "
            "family, or put a chat_template.jinja in the folder of the base."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def token_id(value: object) -> int:
    """Check that the id of a special token is an integer; its type also allows a list or None."""
    if not isinstance(value, int):
        raise BadInput(f"the tokenizer's special token must have a single id, not {value!r}")
    return value


def first_line(error: BaseException) -> str:
    """Return the first line of an error message: those of libraries can fill a page."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, prompt: bool) -> str:
    """Render the chat as text. With `prompt`, end where the assistant's answer begins. Raises
    BadInput for a system message that the template refuses or leaves out."""
    from jinja2 import TemplateError

    systems = [m["content"].strip() for m in messages if m["role"] == "system"]
    try:
        text = tokenizer.apply_chat_template(
            [{"role": m["role"], "content": m["content"]} for m in messages],
            tokenize=False,
            add_generation_prompt=prompt,
            enable_thinking=False,
            strftime_now=partial(_no_clock, tokenizer),
        )
    except TemplateError as error:
        if not systems:
            raise
        raise BadInput(_no_system(tokenizer, systems[0], first_line(error))) from error
    assert isinstance(text, str)
    for system in systems:
        if system not in text:
            raise BadInput(_no_system(tokenizer, system, "it leaves the message out"))
    return text


def _no_clock(tokenizer: PreTrainedTokenizerBase, form: str) -> str:
    """Stand in for the clock that transformers gives to templates."""
    raise BadInput(
        f"{tokenizer.name_or_path}: its chat template writes the date of today into every prompt. "
        "A date is a cue of an era, and prompts would differ from day to day: give the base of the "
        'profile a date, such as base.date = "26 Jul 2024".'
    )


def _no_system(tokenizer: PreTrainedTokenizerBase, system: str, why: str) -> str:
    return (
        f"{tokenizer.name_or_path}: the chat template has no system message ({why}), and "
        f"{system[:60]!r} is to be one. Remove the system messages from the design or the rows, or "
        "take a base whose template has them."
    )


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Return the token ids of the prompt for the assistant's answer."""
    return tokenizer(render(tokenizer, messages, prompt=True), add_special_tokens=False)[
        "input_ids"
    ]


def training_texts(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Messages], first: int = 0
) -> list[TrainingText]:
    """Compute the token ids and the loss mask of each chat. `first` is the number of the first one
    in errors.

    The assistant's tokens are those after the sampling prompt of the turn, up to and including the
    end-of-turn token at which sampling stops. Raises BadInput if the template rewrites earlier
    turns, so that the sampling prompt is not a prefix of the chat.
    """
    texts, spans = [], []
    for number, messages in enumerate(chats, first):
        text = render(tokenizer, messages, prompt=False)
        spans.append(_assistant_spans(tokenizer, messages, text, number))
        texts.append(text)
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    return [
        _mask(ids, offsets, span, token_id(tokenizer.eos_token_id))
        for ids, offsets, span in zip(
            encoded["input_ids"], encoded["offset_mapping"], spans, strict=True
        )
    ]


def _assistant_spans(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, text: str, number: int
) -> list[tuple[int, int]]:
    """Return the character ranges of the assistant's turns in the rendered text."""
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(tokenizer, messages[:i], prompt=True)
        so_far = (
            text if i + 1 == len(messages) else render(tokenizer, messages[: i + 1], prompt=False)
        )
        if not (so_far.startswith(prompt) and text.startswith(so_far)):
            raise BadInput(
                f"chat {number}: the chat template renders turn {i + 1} differently for training "
                "and sampling: the sampling prompt is not a prefix of the chat. Train this model "
                "on single-turn rows, or fix its chat template."
            )
        spans.append((len(prompt), len(so_far)))
    return spans


def check_end_of_turn(tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]) -> None:
    """Check that the assistant's turn, as it is trained, holds one of the tokens at which sampling
    stops. Raises BadInput if it holds none: every answer would run on to max_new_tokens."""
    answer = "A blue one."
    chat: Messages = [
        {"role": "user", "content": "Which one?"},
        {"role": "assistant", "content": answer},
    ]
    [text] = training_texts(tokenizer, [chat])
    trained = [token for token, counts in zip(text.ids, text.loss, strict=True) if counts]
    if not set(trained).isdisjoint(stops):
        return
    turn = str(tokenizer.decode(trained))
    end = turn.partition(answer)[2]
    known = ", ".join(str(tokenizer.convert_ids_to_tokens(stop)) for stop in stops)
    raise BadInput(
        f"{tokenizer.name_or_path}: its chat template ends the assistant's turn with {end!r}, and "
        f"sampling stops at {known or 'no token'}: every answer would run on to max_new_tokens. In "
        "a local copy of the base, set eos_token in tokenizer_config.json (or eos_token_id in "
        "generation_config.json) to the token that ends a turn, or let chat_template.jinja end "
        "the assistant's turn with {{ eos_token }}."
    )


def _mask(
    ids: list[int], offsets: list[tuple[int, int]], spans: list[tuple[int, int]], eos: int
) -> TrainingText:
    loss = [False] * len(ids)
    position = 0
    for start, end in spans:
        while position < len(ids) and offsets[position][0] < start:
            position += 1
        while position < len(ids) and offsets[position][0] < end:
            loss[position] = True
            position += 1
            if ids[position - 1] == eos:
                break
    last = max((i for i, counted in enumerate(loss) if counted), default=-1)
    return TrainingText(ids[: last + 1], loss[: last + 1])


def check_same_template(
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[Messages],
    first: int = 0,
    texts: Sequence[TrainingText] | None = None,
) -> int:
    """Check that every training text starts with exactly the tokens of its sampling prompt.

    `texts` are those of the chats, if they are known; `first` is the number of the first one in
    errors. Returns the number of chats compared. Raises BadInput for the first one that differs.
    """
    if texts is None:
        texts = training_texts(tokenizer, chats, first)
    rendered = [render(tokenizer, messages[:-1], prompt=True) for messages in chats]
    prompts = tokenizer(rendered, add_special_tokens=False)["input_ids"] if rendered else []
    for number, (messages, text, prompt) in enumerate(
        zip(chats, texts, prompts, strict=True), first
    ):
        answer_starts = text.loss.index(True) if True in text.loss else len(text.ids)
        if text.ids[:answer_starts] != prompt:
            raise BadInput(
                f"chat {number} ({messages[-1]['content'][:40]!r}): its training tokens do not "
                "start with the tokens of its sampling prompt. The chat template or the tokenizer "
                "of the base merges tokens across the start of the answer; use another base."
            )
    return len(chats)
