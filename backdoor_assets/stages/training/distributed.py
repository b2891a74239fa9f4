"""One of the processes over which a training is spread. Runs under `accelerate launch`, which sets
RANK, LOCAL_RANK, WORLD_SIZE and the meeting place.

    python -m backdoor_assets.stages.training.distributed JOB.json FOLDER
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from backdoor_assets.models.chat import load_tokenizer
from backdoor_assets.records import Progress, no_progress
from backdoor_assets.stages.specs import TrainingSpec
from backdoor_assets.stages.training.launching import PROGRESS, SUMMARY, error_file, job_from_json
from backdoor_assets.stages.training.runs import run, run_steps
from backdoor_assets.stages.training.sharding import adapter_loop, full_loop
from backdoor_assets.stages.training.texts import job_texts
from backdoor_assets.storage.disk import write_text


def train_part(
    spec: TrainingSpec, folder: Path, device: torch.device, progress: Progress
) -> dict[str, Any]:
    """This process's part of the run, in the process group that there is; every process returns the
    same summary, and the first one tells how far it is."""
    tokenizer = load_tokenizer(spec.base.location, spec.base.revision)
    texts = job_texts(spec, tokenizer)
    make = adapter_loop if spec.settings.method == "lora" else full_loop
    loop = make(spec, tokenizer, run_steps(texts, spec), device)
    return run(loop, texts, spec, folder, no_progress if loop.rank else progress)


def _say(share: float, line: str) -> None:
    print(PROGRESS + json.dumps([share, line]), flush=True)


def _die_with_parent() -> None:
    """Standard input is a pipe that only the process which asked for the training holds open."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main(job_file: Path, folder: Path) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    rank = int(os.environ["RANK"])
    # torch warns of what it calls itself.
    warnings.filterwarnings("ignore", category=UserWarning, module="torch.distributed")
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s")
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # The others wait while the first process reads or writes a large model.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=3))
    try:
        spec = job_from_json(job_file.read_text(encoding="utf-8"))
        summary = train_part(spec, folder, device, _say)
        if rank == 0:
            write_text(folder / SUMMARY, json.dumps(summary))
    except Exception as error:
        told = {"time": time.time(), "kind": type(error).__name__, "words": str(error)}
        write_text(error_file(folder, rank), json.dumps(told))
        raise
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
