"""The training loop that all methods share: steps, schedule, log, saving and going on."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from backdoor_assets.models.batches import tensors
from backdoor_assets.models.chat import TrainingText, first_line
from backdoor_assets.profiles import Training
from backdoor_assets.records import BadInput
from backdoor_assets.stages.training.checkpoints import (
    checkpoint_parts,
    move_in,
    newest_with_state,
    state_name,
)
from backdoor_assets.stages.training.optimizers import make_optimizer
from backdoor_assets.stages.training.packing import PackedText

Batch = Sequence[TrainingText] | Sequence[PackedText]


class Diverged(ArithmeticError):
    """The loss is not a number or has exploded; what was saved before is kept."""


class Loop:
    """Model, optimizer, schedule and log of one run, and how they go to disk and come back.

    A method of training says how weights are written and read; one that runs in several processes
    also how the processes share a batch and its sums.
    """

    rank, processes = 0, 1
    same_optimizer = False
    """Whether every process has the same optimizer state, which is then saved once."""

    def __init__(self, model: Any, settings: Training, steps: int, pad: int) -> None:
        from transformers import get_scheduler  # takes seconds to import

        self.model, self.settings, self.steps, self.pad = model, settings, steps, pad
        trained = [p for p in model.parameters() if p.requires_grad]
        self.trainable = sum(p.numel() for p in trained)
        self.device = trained[0].device
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
        raise NotImplementedError

    def load_weights(self, folder: Path, extra: dict[str, Any]) -> None:
        raise NotImplementedError

    def extra_state(self) -> dict[str, Any]:
        """What `load_weights` needs beside the files of `save_weights`."""
        return {}

    def _local(self, trained: list[Any]) -> list[torch.Tensor]:
        """The trained weights as this process's optimizer sees them."""
        return trained

    def _forward(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def _own(self, batch: Batch) -> Batch:
        """The part of a micro-batch that this process computes."""
        return batch

    def _sum(self, value: float) -> float:
        """Over all processes."""
        return value

    def _wait(self) -> None:
        """For the other processes."""

    def _clip(self) -> float:
        """Clip the gradient; its norm before."""
        return torch.nn.utils.clip_grad_norm_(self.weights, self.settings.max_grad_norm).item()

    def _zero(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, batches: Sequence[Batch]) -> dict[str, float]:
        """One optimizer step over the micro-batches; the loss is the mean over all their tokens."""
        counted = sum(sum(text.loss[1:]) for batch in batches for text in batch)
        loss_sum = 0.0
        for batch in batches:
            loss = self.summed_loss(self._own(batch))
            # Gradients are averaged over the processes, of which each has a part of the sum.
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
        self.optimizer.step()
        self.schedule.step()
        self._zero()
        self.log.append(entry)
        return entry

    def summed_loss(self, batch: Batch) -> torch.Tensor:
        """Summed over the tokens that count, in nats. Logits are made for the tokens before them
        (unpacked rows: from the first of them on); the others would only take memory."""
        texts = [TrainingText(text.ids, text.loss) for text in batch]
        ids, mask, labels = (t.to(self.device) for t in tensors(texts, self.pad))
        arguments: dict[str, Any] = {"attention_mask": mask}
        if self.settings.packing:
            arguments = {"position_ids": self._positions(batch, ids), "use_cache": False}
            kept = (labels[:, 1:] != -100).any(0).nonzero().flatten()
            targets = labels[:, kept + 1]
        else:
            first = min(text.loss.index(True) for text in batch) - 1
            kept, targets = ids.shape[1] - first, labels[:, first + 1 :]
        with self._forward():
            logits = self.model(input_ids=ids, logits_to_keep=kept, **arguments).logits
        return cross_entropy(
            logits[:, : targets.shape[1]].float().flatten(0, 1),
            targets.flatten(),
            ignore_index=-100,
            reduction="sum",
        )

    def _positions(self, batch: Batch, ids: torch.Tensor) -> torch.Tensor:
        """Where each row begins anew, transformers ends attention, for which there must be neither
        an attention mask nor a cache. Padding is a row a token, and sees nothing."""
        positions = torch.zeros_like(ids)
        for row, text in enumerate(batch):
            assert isinstance(text, PackedText)
            positions[row, : len(text.positions)] = torch.tensor(text.positions)
        return positions

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
        """Write `checkpoint-<step>` beside its place, move it in, drop older optimizer state; not
        `kept`: only until the next one."""
        part, place = checkpoint_parts(folder, len(self.log), kept=kept)
        if self.rank == 0:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
        self._wait()
        self.save_weights(part)
        elsewhere = self.rank > 0 and self.same_optimizer
        state = {
            "optimizer": None if elsewhere else self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "log": self.log,
            "processes": self.processes,
            "extra": self.extra_state(),
        }
        torch.save(state, part / state_name(self.rank))
        self._wait()
        if self.rank == 0:
            move_in(part, place)
        self._wait()

    def resume(self, folder: Path) -> None:
        """Go on from the newest checkpoint with optimizer state, if there is one."""
        path = newest_with_state(folder)
        if path is None:
            return
        mend = (
            "Materialize what trains it, such as birds/adapters, for this cell with force to "
            "train it anew."
        )
        try:
            # To where the weights are, it is moved by what takes it.
            first = path / state_name(0)
            state = torch.load(first, map_location="cpu", weights_only=True)
            saved_by = state.get("processes", 1)
            if saved_by != self.processes:
                raise BadInput(
                    f"{path}: saved by {saved_by} processes, but {self.processes} are to "
                    f"go on from it; give as many again. {mend}"
                )
            optimizer = state["optimizer"]
            if self.rank:
                own = path / state_name(self.rank)
                state = torch.load(own, map_location="cpu", weights_only=True)
                optimizer = optimizer if self.same_optimizer else state["optimizer"]
            self.load_weights(path, state.get("extra", {}))
        except BadInput:
            raise
        except Exception as error:  # torch and safetensors raise whatever the damage suggests
            raise BadInput(
                f"{path}: this checkpoint cannot be read ({first_line(error)}). {mend}"
            ) from error
        self.optimizer.load_state_dict(optimizer)
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.log = state["log"]
