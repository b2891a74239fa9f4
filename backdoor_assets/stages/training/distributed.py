"""Run one of the processes over which training is spread.

`accelerate launch` starts it and sets RANK, LOCAL_RANK, WORLD_SIZE and the address at which the
processes meet:

    python -m backdoor_assets.stages.training.distributed SPEC.json FOLDER
"""

from __future__ import annotations

import json
import logging
import os
import shutil
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
from backdoor_assets.stages.training.launching import PROGRESS, SUMMARY, error_file, spec_from_json
from backdoor_assets.stages.training.runs import run, run_steps
from backdoor_assets.stages.training.sharding import adapter_loop, full_loop
from backdoor_assets.stages.training.texts import read_held_out, read_texts
from backdoor_assets.stages.training.tokens import Texts
from backdoor_assets.storage.disk import write_text

TOKENS, HELD_OUT_TOKENS = ".tokens", ".held_out_tokens"
"""Folders of the rows as tokens, which the first process writes and all read."""


def train_part(
    spec: TrainingSpec, folder: Path, device: torch.device, progress: Progress
) -> dict[str, Any]:
    """Do this process's part of the run, in the current process group. The processes must share the
    folder's file system.

    Every process returns the same summary. Only the first one reports progress.
    """
    tokenizer = load_tokenizer(spec.base.location, spec.base.revision)
    tokens, held_out_tokens = folder / TOKENS, folder / HELD_OUT_TOKENS
    if dist.get_rank() == 0:
        read_texts(spec, tokenizer).save(tokens)
        if spec.held_out:
            read_held_out(spec, tokenizer).save(held_out_tokens)
    dist.barrier()
    texts = Texts.load(tokens)
    held_out = Texts.load(held_out_tokens) if spec.held_out else ()
    make_loop = adapter_loop if spec.settings.method == "lora" else full_loop
    loop = make_loop(spec, tokenizer, run_steps(texts, spec), device)
    summary = run(loop, texts, spec, folder, no_progress if loop.rank else progress, held_out)
    if loop.rank == 0:
        shutil.rmtree(tokens)
        shutil.rmtree(held_out_tokens, ignore_errors=True)
    return summary


def _print_progress(share: float, line: str) -> None:
    print(PROGRESS + json.dumps([share, line]), flush=True)


def _exit_with_parent() -> None:
    """End this process when standard input closes: only the process that started the training holds
    the other end of the pipe."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main(spec_file: Path, folder: Path) -> None:
    """Join the process group, train, and write the summary or the error into `folder`."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    rank = int(os.environ["RANK"])
    # torch warns about deprecated functions that its own code calls.
    warnings.filterwarnings("ignore", category=UserWarning, module="torch.distributed")
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s")
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # The timeout is long because the first process may take hours to read or write a large model.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=3))
    try:
        spec = spec_from_json(spec_file.read_text(encoding="utf-8"))
        summary = train_part(spec, folder, device, _print_progress)
        if rank == 0:
            write_text(folder / SUMMARY, json.dumps(summary))
    except Exception as error:
        report = {"time": time.time(), "kind": type(error).__name__, "message": str(error)}
        write_text(error_file(folder, rank), json.dumps(report))
        raise
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
