"""What several commands share: options, and the profile in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from backdoor_assets.profiles import Profile


def study_option(default: str | None = "birds", text: str = "Which study.") -> Any:
    return click.option("--study", default=default, metavar="NAME", help=text)


def profile_in_force() -> Profile:
    from backdoor_assets.profiles import active_profile

    return active_profile()
