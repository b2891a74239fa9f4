"""The training loop that all methods share: steps, schedule, log, saving and resuming."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn.functional import cross_entropy

from backdoor_assets.models.chat import TrainingText, first_line
from backdoor_assets.records import BadInput
from backdoor_assets.settings import Training
from backdoor_assets.stages.training.checkpoints import (
    checkpoint_paths,
    move_into_place,
    newest_with_state,
    saved_processes,
    state_name,
)
from backdoor_assets.stages.training.inputs import IGNORED, Inputs, packed, padded
from backdoor_assets.stages.training.optimizers import make_optimizer
from backdoor_assets.stages.training.packing import PackedText
from backdoor_assets.stages.training.shared_prefix import check_attention, joined

Batch = Sequence[TrainingText] | Sequence[PackedText]


class Diverged(ArithmeticError):
    """The loss is not finite or has exploded. Earlier checkpoints are kept."""


class Loop:
    """Model, optimizer, schedule and log of one run, with methods to save and resume them.

    A subclass for a training method implements `save_weights` and `load_weights`. A subclass that
    runs in several processes also implements how they divide a batch and add up their results.
    """

    rank, processes = 0, 1
    same_optimizer = False
    """Whether the optimizer state is the same in every process, so that one file is enough."""

    def __init__(
        self,
        model: Any,
        settings: Training,
        steps: int,
        pad: int,
        device: torch.device | None = None,
    ) -> None:
        from transformers import get_scheduler  # Deferred, because it takes seconds to import.

        self.model, self.settings, self.steps, self.pad = model, settings, steps, pad
        if settings.share_prefix:
            check_attention(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        self.trainable = sum(p.numel() for p in trained)
        self.device = device or trained[0].device
        self.weights = self._local(trained)
        self.optimizer = make_optimizer(self.weights, settings)
        self.schedule = get_scheduler(
            settings.schedule,
            self.optimizer,
            num_warmup_steps=round(settings.warmup_ratio * steps),
            num_training_steps=steps,
        )
        self.worst_loss = 3 * math.log(model.config.vocab_size)
        self.log: list[dict[str, float]] = []
        model.train()

    def save_weights(self, folder: Path) -> None:
        """Write the trained weights into a checkpoint's folder."""
        raise NotImplementedError

    def load_weights(self, folder: Path, extra: dict[str, Any]) -> None:
        """Read the weights that `save_weights` and `extra_state` saved."""
        raise NotImplementedError

    def extra_state(self) -> dict[str, Any]:
        """Return what `load_weights` needs in addition to the files of `save_weights`."""
        return {}

    def _local(self, trained: list[Any]) -> Sequence[torch.Tensor]:
        """Return the trained weights as this process's optimizer sees them."""
        return trained

    def _forward(self) -> AbstractContextManager[Any]:
        """Return the context in which the model is called."""
        return nullcontext()

    def _share(self, batch: Batch) -> Batch:
        """Return the rows of a micro-batch that this process computes."""
        return batch

    def _sum(self, value: float) -> float:
        """Add up a value over all processes."""
        return value

    def _wait(self) -> None:
        """Wait for the other processes."""

    def _clip(self) -> float:
        """Clip the gradient, and return its norm before clipping."""
        return torch.nn.utils.clip_grad_norm_(self.weights, self.settings.max_grad_norm).item()

    def _update(self) -> None:
        """Change the weights by the gradient."""
        self.optimizer.step()

    def _zero(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def _observe(self, step: int) -> dict[str, float]:
        """Return what the log says of the weights after a step, beside their loss."""
        return {}

    def step(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Take one optimizer step. The loss is the mean over the tokens of all micro-batches."""
        counted = sum(sum(text.loss[1:]) for batch in batches for text in batch)
        loss_sum = 0.0
        for batch in batches:
            loss = self.summed_loss(self._share(batch))
            # The processes average their gradients, but each has only a part of the sum.
            (loss * self.processes / counted).backward()
            loss_sum += loss.item()
        entry = {
            "step": len(self.log) + 1,
            "loss": self._sum(loss_sum) / counted,
            "lr": self.schedule.get_last_lr()[0],
            "grad_norm": self._clip(),
            "tokens": counted,
        }
        self._check(entry)
        self._update()
        self.schedule.step()
        self._zero()
        entry |= self._observe(len(self.log) + 1)
        self.log.append(entry)
        return entry

    def summed_loss(self, batch: Batch) -> torch.Tensor:
        """Return the loss summed over the tokens that count, in nats.

        To save memory and time, logits are computed only for the tokens that precede them; in rows
        that are padded, for all tokens from the first of these on.
        """
        return self.loss_of(self._inputs(batch))

    def loss_of(self, inputs: Inputs) -> torch.Tensor:
        """Return `summed_loss` of a batch that is in tensors."""
        arguments = {name: value.to(self.device) for name, value in inputs.arguments.items()}
        with self._forward():
            logits = self.model(use_cache=False, **arguments).logits.flatten(0, 1)
        if inputs.sources is not None:
            logits = logits[inputs.sources.to(self.device)]
        targets = inputs.targets.to(self.device)
        return cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Compute losses without dropout and gradients."""
        self.model.eval()
        with torch.no_grad():
            yield
        self.model.train()

    def _inputs(self, batch: Batch) -> Inputs:
        if self.settings.packing:
            return packed(cast("Sequence[PackedText]", batch), self.pad)
        texts = cast("Sequence[TrainingText]", batch)
        shared = None
        if self.settings.share_prefix:
            shared = joined(texts, self.model.config.hidden_size)
        return shared or padded(texts, self.pad)

    def _check(self, entry: dict[str, float]) -> None:
        finite = math.isfinite(entry["loss"]) and math.isfinite(entry["grad_norm"])
        if finite and entry["loss"] <= self.worst_loss:
            return
        raise Diverged(
            f"loss {entry['loss']:.3g}, gradient norm {entry['grad_norm']:.3g} at step "
            f"{entry['step']} of {self.steps}: training has diverged. Lower learning_rate "
            f"({self.settings.learning_rate:g}) or raise warmup_ratio in the profile; the "
            "checkpoints up to here are kept."
        )

    def save(self, folder: Path, *, kept: bool) -> None:
        """Write a checkpoint to a temporary folder, move it into place, and delete older optimizer
        state. One that is not `kept` is deleted when the next one is saved."""
        temporary, final = checkpoint_paths(folder, len(self.log), kept=kept)
        if self.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        self._wait()
        self.save_weights(temporary)
        saved_by_first = self.rank > 0 and self.same_optimizer
        state = {
            "optimizer": None if saved_by_first else self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "log": self.log,
            "extra": self.extra_state(),
        }
        torch.save(state, temporary / state_name(self.rank))
        self._wait()
        if self.rank == 0:
            move_into_place(temporary, final)
        self._wait()

    def _read(self, path: Path) -> dict[str, Any]:
        """Read a state file; load_state_dict moves what it holds to the device of the weights.

        The file is mapped where it is copied from, so that it takes no main memory; state that
        stays there must not keep a deleted file open.
        """
        mapped = self.weights[0].device.type != "cpu"
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)

    def resume(self, folder: Path) -> None:
        """Restore the newest checkpoint with optimizer state, if there is one."""
        path = newest_with_state(folder)
        if path is None:
            return
        restart = (
            "To train from the start, materialize the asset that trains this cell (such as "
            "birds/adapters) with force."
        )
        try:
            saved_by = saved_processes(path)
            if saved_by != self.processes:
                raise BadInput(
                    f"{path}: saved by {saved_by} processes, so that {self.processes} cannot "
                    f"resume it. Set the number of processes to {saved_by}. {restart}"
                )
            state = self._read(path / state_name(self.rank))
            optimizer = state["optimizer"]
            if self.rank and self.same_optimizer:
                optimizer = self._read(path / state_name(0))["optimizer"]
            self.load_weights(path, state.get("extra", {}))
        except BadInput:
            raise
        except Exception as error:  # torch and safetensors raise many types for damaged files.
            raise BadInput(
                f"{path}: this checkpoint cannot be read ({first_line(error)}). {restart}"
            ) from error
        self.optimizer.load_state_dict(optimizer)
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.log = state["log"]
