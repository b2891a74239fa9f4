"""Commands about judges: how far they agree, a second one, batches that are given up."""

from __future__ import annotations

from typing import Any

import click

from backdoor_assets.commands.options import profile_in_force, study_option
from backdoor_assets.records import BadInput
from backdoor_assets.storage.disk import given_path


@click.command()
@study_option()
@click.option(
    "--with",
    "other",
    default="calls",
    metavar="WHAT",
    help="gold: labelled answers; itself: a second pass of a language model; exact, claude, "
    "embedding or claude:MODEL: another judge; calls: Claude with one call per rubric and with one "
    "for all.",
)
@click.option("--labels", metavar="FILE", help="Your own labels (.csv, .jsonl), for --with gold.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    help="Distinct answers to judge.  [default: 50 stored answers, or all labelled ones]",
)
@click.option("--seed", default=0, help="Draws the sample.")
def agreement(study: str, other: str, labels: str | None, sample: int | None, seed: int) -> None:
    """Say how far the profile's judge agrees with labels, itself or another judge.

    Prints kappa, alpha and confusion tables, over all answers, by question and by label, and stores
    them with a figure in the study's folder `agreement`. Claude's verdicts cost money; those that
    are stored are used again.

    \b
    backdoor-assets agreement --with gold
    backdoor-assets agreement --labels mine.csv
    backdoor-assets agreement --with claude:claude-sonnet-5-5 --sample 200
    """
    chosen = _study_with(
        study, "agreement", "is no study of mixtures, and judges are compared for those only"
    )
    file = given_path(labels, "--labels") if labels else None
    click.echo(chosen.agreement(profile_in_force(), other, file, sample, seed, click.echo))


@click.command("swap-judge")
@click.argument("judge")
@study_option()
def swap_judge(judge: str, study: str) -> None:
    """Judge the stored answers of a finished study by another JUDGE too.

    JUDGE is exact, claude, embedding or claude:MODEL. Both verdicts stay, side by side: the second
    in `judgments-JUDGE`. Prints the rates at the last checkpoint under both and their difference,
    and draws the dose and response under both.

    \b
    backdoor-assets swap-judge embedding
    backdoor-assets --profile qwen3-8b swap-judge claude:claude-sonnet-5-5
    """
    chosen = _study_with(
        study, "swap_judge", "is no study of mixtures, and judges are swapped for those only"
    )
    click.echo(chosen.swap_judge(profile_in_force(), judge, click.echo))


@click.command("give-up")
@click.argument("batch")
@study_option()
def give_up(batch: str, study: str) -> None:
    """Give up a batch of Claude's whose results cannot be read.

    Its verdicts that were read are kept; the next run asks for the others again, which may cost
    them twice. The message of a missing verdict names the BATCH.

    \b
    backdoor-assets give-up msgbatch_01HkcTjaV5uDC8jWR4ZsDV8d
    """
    chosen = _study_with(study, "give_up", "has no batches")
    click.echo(chosen.give_up(profile_in_force(), batch, click.echo))


def _study_with(name: str, method: str, lacks: str) -> Any:
    from backdoor_assets.graph.study import study_named

    chosen = study_named(name)
    if not hasattr(chosen, method):
        raise BadInput(f"the study {name} {lacks}")
    return chosen
