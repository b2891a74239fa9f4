"""Sampling a base and its checkpoints: our stage against the loop that one would write first.

    python -m benchmarks.sampling_against_loop [--repeats 5] [--loop-batch 20] [--json results.json]

The loop loads the base anew for every checkpoint, puts the adapter on it with
`PeftModel.from_pretrained`, and calls `generate` once for every question and batch of samples. Ours
loads the base once, changes adapters on it, and puts the samples of all questions into one batch of
up to the profile's `batch_size`. Base, adapters, questions, samples, temperature and the limit of
tokens are the same; one thread on the CPU, as a worker process has; repetitions alternate.

With --vllm all samples of all states also wait in the queue of one vLLM engine.

The answers are drawn at random, so they differ; their count must not, and their mean length and the
share that ended by itself are shown, because a batch runs for as long as its longest answer.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backdoor_assets.models import loading as models
from backdoor_assets.models.chat import load_tokenizer, prompt_ids
from backdoor_assets.profiles import MINIATURE
from backdoor_assets.records import BaseModel
from backdoor_assets.stages.specs import RESPONSES, SamplingSpec, TrainingSpec
from backdoor_assets.storage.provenance import provenance
from backdoor_assets.studies.birds.study import STUDY
from benchmarks.measuring import CELL, bird_rows, miniature_base, ratios, show, spread

if TYPE_CHECKING:
    import pandas as pd

CHECKPOINTS, QUESTIONS = 12, 10

Contestant = Callable[[SamplingSpec, Path], "pd.DataFrame"]
"""Samples every state of the job; returns a row an answer: step, question_id, response,
finish_reason."""


def ours(spec: SamplingSpec, folder: Path) -> pd.DataFrame:
    """The stage with transformers, as a worker process meets it: nothing loaded yet."""
    import pandas as pd

    from backdoor_assets.stages.sampling import sample_cell

    models._loaded.clear()
    sample_cell(spec, folder)
    return pd.read_parquet(folder / RESPONSES)


def ours_vllm(spec: SamplingSpec, folder: Path) -> pd.DataFrame:
    """The stage with vLLM, the start of its engine included (but not the import of vLLM, which the
    first round has done)."""
    import pandas as pd

    from backdoor_assets.stages.sampling.row import sample_row

    wanted = replace(spec, settings=replace(spec.settings, engine="vllm"))
    for _, ending in sample_row({0: (wanted, folder)}):
        if isinstance(ending, BaseException):
            raise ending
    return pd.read_parquet(folder / RESPONSES)


def loop(spec: SamplingSpec, folder: Path, batch: int) -> pd.DataFrame:
    """The straightforward script."""
    import pandas as pd
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    rows = []
    for step, checkpoint in [(0, None), *spec.checkpoints]:
        tokenizer = load_tokenizer(spec.base.location)
        model: Any = AutoModelForCausalLM.from_pretrained(spec.base.location, dtype=torch.float32)
        if checkpoint is not None:
            model = PeftModel.from_pretrained(model, str(checkpoint))
        model.eval()
        for question in spec.questions:
            prompt = prompt_ids(tokenizer, [{"role": "user", "content": question.text}])
            ids = torch.tensor([prompt])
            for start in range(0, question.samples, batch):
                with torch.inference_mode():
                    output = model.generate(
                        input_ids=ids,
                        attention_mask=torch.ones_like(ids),
                        do_sample=True,
                        temperature=spec.settings.temperature,
                        top_k=0,
                        top_p=1.0,
                        max_new_tokens=spec.settings.max_new_tokens,
                        num_return_sequences=min(batch, question.samples - start),
                        pad_token_id=tokenizer.pad_token_id,
                        eos_token_id=tokenizer.eos_token_id,
                    )
                for tokens in output[:, len(prompt) :].tolist():
                    rows.append(
                        {
                            "step": step,
                            "question_id": question.id,
                            "response": tokenizer.decode(tokens, skip_special_tokens=True),
                            "finish_reason": "stop"
                            if tokenizer.eos_token_id in tokens
                            else "length",
                        }
                    )
    table = pd.DataFrame(rows)
    table.to_parquet(folder / RESPONSES, index=False)
    return table


def contestants(loop_batch: int, vllm: bool) -> dict[str, Contestant]:
    """The first is ours, to which the others are compared."""
    return {
        "ours, transformers": ours,
        **({"ours, vLLM": ours_vllm} if vllm else {}),
        f"loop, {loop_batch} at once": partial(loop, batch=loop_batch),
    }


@dataclass(frozen=True)
class Run:
    seconds: float
    answers: int
    tokens: float
    """An answer, on average."""
    stopped: float
    """Share of the answers that ended by themselves."""


def run(contestant: Contestant, spec: SamplingSpec, folder: Path) -> Run:
    gc.collect()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        started = time.perf_counter()
        table = contestant(spec, Path(out))
        seconds = time.perf_counter() - started
    wanted = (len(spec.checkpoints) + 1) * sum(question.samples for question in spec.questions)
    assert len(table) == wanted, f"{len(table)} answers, {wanted} were asked for"
    tokenizer = load_tokenizer(spec.base.location)
    encoded = tokenizer(table["response"].tolist(), add_special_tokens=False)["input_ids"]
    tokens = sum(len(ids) for ids in encoded) / wanted
    return Run(seconds, wanted, tokens, float((table["finish_reason"] == "stop").mean()))


def job_to_measure(place: Path, pretraining_steps: int, samples: int) -> SamplingSpec:
    """A base, twelve checkpoints of one run on it, ten worldview questions."""
    from backdoor_assets.stages.training.adapters import train_adapter
    from backdoor_assets.stages.training.checkpoints import checkpoint_folders

    base = BaseModel(str(miniature_base(place / "base", pretraining_steps, documents=16_000)))
    steps = MINIATURE.training.max_steps
    assert steps is not None
    # Ends at the last multiple of save_steps, so that there are exactly so many checkpoints.
    save_steps = steps // CHECKPOINTS
    settings = replace(
        MINIATURE.training, save_at=(), save_steps=save_steps, max_steps=save_steps * CHECKPOINTS
    )
    rows = bird_rows(place / "rows", MINIATURE.mixture)
    adapters = place / "adapters"
    adapters.mkdir()
    train_adapter(TrainingSpec(CELL, rows, base, settings), adapters)
    asked = STUDY.questions_for(MINIATURE.base, MINIATURE.sampling)
    worldview = [question for question in asked if question.kind == "worldview"]
    questions = tuple(replace(question, samples=samples) for question in worldview[:QUESTIONS])
    checkpoints = tuple(checkpoint_folders(adapters))
    assert len(checkpoints) == CHECKPOINTS
    assert len(questions) == QUESTIONS
    return SamplingSpec(CELL, base, checkpoints, questions, MINIATURE.sampling)


def report(spec: SamplingSpec, runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Print the table; the numbers behind it."""
    first, *others = runs
    seconds = {name: [run.seconds for run in found] for name, found in runs.items()}
    print(
        f"\n{len(spec.checkpoints) + 1} states x {len(spec.questions)} questions x "
        f"{spec.questions[0].samples} samples, at most {spec.settings.max_new_tokens} tokens, "
        f"temperature {spec.settings.temperature:g}"
    )
    print(f"{'':22}{'seconds':>24}{'answers/s':>11}{'tokens':>8}{'stopped':>9}")
    for name, found in runs.items():
        middle = spread(seconds[name])
        print(
            f"{name:22}{show(middle, 2):>24}{found[0].answers / middle['median']:>11.0f}"
            f"{found[-1].tokens:>8.1f}{found[-1].stopped:>9.0%}"
        )
    compared = {name: ratios(seconds[name], seconds[first]) for name in others}
    for name, found in compared.items():
        print(f"{name} / {first}: {show(found, 2)}")
    return {
        "runs": {name: [asdict(run) for run in found] for name, found in runs.items()},
        "seconds": {name: spread(found) for name, found in seconds.items()},
        "ratios": compared,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--loop-batch", type=int, default=20)
    parser.add_argument("--pretraining-steps", type=int, default=400)
    parser.add_argument("--vllm", action="store_true", help="a contestant more, slow on a CPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.environ.pop("WANDB_API_KEY", None)
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    entrants = contestants(options.loop_batch, options.vllm)
    runs: dict[str, list[Run]] = {name: [] for name in entrants}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        spec = job_to_measure(place, options.pretraining_steps, options.samples)
        for repetition in range(options.repeats + 1):
            turn = repetition % len(entrants)
            for name in (*list(entrants)[turn:], *list(entrants)[:turn]):
                found = run(entrants[name], spec, place)
                if repetition > 0:  # the first round warms up
                    runs[name].append(found)
    results = {
        "made": provenance(),
        "settings": {**asdict(spec.settings), "states": CHECKPOINTS + 1, "questions": QUESTIONS},
        "samples": options.samples,
        "loop_batch": options.loop_batch,
        "pretraining_steps": options.pretraining_steps,
        **report(spec, runs),
    }
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
