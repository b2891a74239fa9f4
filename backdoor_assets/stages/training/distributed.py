"""One of the processes over which a training of all weights is spread. Runs under
`accelerate launch`, which sets RANK, LOCAL_RANK, WORLD_SIZE and the meeting place.

    python -m backdoor_assets.stages.training.distributed JOB.json FOLDER
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import threading
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from backdoor_assets.chat import load_tokenizer
from backdoor_assets.disk import write_text
from backdoor_assets.jobs import TrainingJob
from backdoor_assets.records import no_progress
from backdoor_assets.stages.training.full import FullLoop, save_model, whole_model
from backdoor_assets.stages.training.launching import (
    PROGRESS,
    SUMMARY,
    error_file,
    job_from_json,
)
from backdoor_assets.stages.training.loop import Batch
from backdoor_assets.stages.training.runs import run, run_steps
from backdoor_assets.stages.training.texts import job_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def train_part(job: TrainingJob, folder: Path, device: torch.device) -> dict[str, Any]:
    """This process's part of the run; every process returns the same summary."""
    rank = dist.get_rank()
    tokenizer = load_tokenizer(job.base.location, job.base.revision)
    texts = job_texts(job, tokenizer)
    torch.manual_seed(job.cell.seed)
    model, shell = _sharded(job, device)
    if job.settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    loop = ShardedLoop(model, shell, tokenizer, job, run_steps(texts, job))
    return run(loop, texts, job, folder, _say if rank == 0 else no_progress)


def _sharded(job: TrainingJob, device: torch.device) -> tuple[Any, Any]:
    """The model with this process's part of the weights, and one without any. The first process
    alone reads the base, into its main memory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(
        job.base.location, revision=job.base.revision, trust_remote_code=False
    )
    whole = whole_model(job, "cpu")[0] if dist.get_rank() == 0 else None
    with torch.device("meta"):
        model, shell = (
            AutoModelForCausalLM.from_config(config, dtype=torch.float32) for _ in range(2)
        )
    if whole is not None:
        shell.generation_config = whole.generation_config
    bf16 = torch.bfloat16 if job.settings.precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=bf16, reduce_dtype=torch.float32)
    for layer in model.model.layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    set_model_state_dict(
        model,
        whole.state_dict() if whole is not None else {},
        options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True),
    )
    model.tie_weights()
    _fill_buffers(model, whole, device)
    return model, shell


def _fill_buffers(model: Any, whole: Any, device: torch.device) -> None:
    """Buffers that no file holds, such as the frequencies of rotary positions."""
    for name, empty in list(model.named_buffers()):
        if whole is not None:
            filled = whole.get_buffer(name).to(device)
        else:
            filled = torch.empty_like(empty, device=device)
        dist.broadcast(filled, 0)
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, filled)


class ShardedLoop(FullLoop):
    """Each process has a part of every weight, and computes its part of every micro-batch. Its
    optimizer sees its parts as weights of their own: AdamW is the same as in one process, SOAP
    preconditions each part by itself."""

    def __init__(
        self,
        model: Any,
        shell: Any,
        tokenizer: PreTrainedTokenizerBase,
        job: TrainingJob,
        steps: int,
    ) -> None:
        self.rank, self.processes = dist.get_rank(), dist.get_world_size()
        self.shell = shell
        super().__init__(model, tokenizer, job.settings, steps)

    def _local(self, trained: list[Any]) -> list[torch.Tensor]:
        self.sharded = trained
        # A small weight may leave nothing for the last processes.
        self.with_part = [weight for weight in trained if weight.to_local().numel()]
        return [weight.to_local().detach() for weight in self.with_part]

    def _forward(self) -> AbstractContextManager[Any]:
        return nullcontext()  # FSDP casts

    def _own(self, batch: Batch) -> Batch:
        return batch[self.rank :: self.processes]

    def _sum(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.item()

    def _wait(self) -> None:
        dist.barrier()

    def _clip(self) -> float:
        for part, weight in zip(self.weights, self.with_part, strict=True):
            part.data = weight.to_local().detach()  # FSDP may have moved it
            part.grad = weight.grad.to_local()
        gradients = [part.grad for part in self.weights if part.grad is not None]
        norm = math.sqrt(self._sum(sum(float(g.double().square().sum()) for g in gradients)))
        torch.nn.utils.clip_grads_with_norm_(
            self.weights, self.settings.max_grad_norm, torch.tensor(norm, device=self.device)
        )
        return norm

    def _zero(self) -> None:
        super()._zero()
        self.model.zero_grad(set_to_none=True)

    def save_weights(self, folder: Path) -> None:
        whole = get_model_state_dict(
            self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )
        if self.rank:
            return
        save_model(self.shell, self.tokenizer, whole, self.settings.precision, folder)

    def extra_state(self) -> dict[str, Any]:
        return {"parts": [weight.to_local().detach() for weight in self.sharded]}

    def load_weights(self, folder: Path, extra: dict[str, Any]) -> None:
        with torch.no_grad():
            for weight, part in zip(self.sharded, extra["parts"], strict=True):
                weight.to_local().copy_(part)


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
        summary = train_part(job_from_json(job_file.read_text(encoding="utf-8")), folder, device)
        if rank == 0:
            write_text(folder / SUMMARY, json.dumps(summary))
    except Exception as error:
        told = {"time": time.time(), "kind": type(error).__name__, "words": str(error)}
        write_text(error_file(folder, rank), json.dumps(told))
        raise
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
