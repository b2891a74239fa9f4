"""Workers on the hosts of a Ray cluster.

Ray decides which host has GPUs to spare, reserves them and notices hosts that are lost. On the host
an actor stands for one worker: a process as on a single host, which sees the actor's GPUs only.
What a worker says is fetched from its actor.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

from backdoor_assets.host import gpus as host_gpus
from backdoor_assets.records import BadInput
from backdoor_assets.workers.messages import Died, Ended, Log, Logged, Message
from backdoor_assets.workers.processes import Processes, do, requested_processes

LONGEST_WAIT = 2.0
"""Seconds for which an actor waits for what its worker says, before it is asked again."""
LOOK_EVERY = 0.05
"""Seconds between two looks for an answer."""
PATIENCE = 15.0
"""Seconds without a free GPU after which the log says so."""
SHIFT = 1800.0
"""Seconds after which a worker gives its GPUs back between two items, for other runs to take."""
KEPT_HERE = "BACKDOOR_POSTGRES_", "BACKDOOR_GPUS", "BACKDOOR_ROLE"
"""Variables of this host alone: its database, its GPUs, what its location makes."""
RECONNECT = "90"
"""Seconds for which a ray:// connection that is cut is kept. So long the workers of a run that was
killed go on; the next one starts later (deploy/systemd/backdoor-recover@.timer)."""


class Seat:
    """An actor: a place for one worker on a host of the cluster."""

    def __init__(self, variables: dict[str, str]) -> None:
        os.environ.update(variables)
        self._processes = Processes([None])
        node = import_module("ray").get_runtime_context().get_node_id()[:8]
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or "none"
        self._messages: list[Message] = [
            Logged(f"a worker starts on {socket.gethostname()} (node {node}), GPU {gpus}")
        ]

    def start(self, work: Callable[..., Any], item: Any) -> list[Message]:
        """Start an item, and return what there is to say about the worker."""
        self._processes.start(0, work, item)
        first, self._messages = self._messages, []
        return first

    def wait(self, seconds: float) -> list[Message]:
        return [message for _, message in self._processes.wait(seconds)]

    def dismiss(self) -> None:
        self._processes.dismiss(0)


class RayCrew:
    """A crew of workers on a cluster: one per item, or as many as the cluster has GPUs for."""

    def __init__(self, address: str, items: int, gpus: int, log: Log) -> None:
        self._ray, self._log = connect(address), log
        self._gpus = gpus if _gpus_in(self._ray) else 0  # also later, when its GPUs may be lost
        self._seats = [_Place() for _ in range(min(items, workers_in_cluster(address, gpus)))]

    @property
    def size(self) -> int:
        return len(self._seats)

    def start(self, place: int, work: Callable[..., Any], item: Any) -> None:
        seat, now = self._seats[place], time.monotonic()
        if seat.actor is not None and now - seat.since > SHIFT:
            self.release(place)
        if seat.actor is None:
            actor = self._ray.remote(Seat).options(num_cpus=1, num_gpus=self._gpus, max_restarts=0)
            seat.actor, seat.since, seat.heard = actor.remote(_variables()), now, False
        seat.answer = seat.actor.start.remote(work, item)

    def wait(self, seconds: float) -> Iterator[tuple[int, Message]]:
        """Yield what workers have said. Raises BadInput when the cluster is gone."""
        ray = self._ray
        asked = {seat.answer: place for place, seat in enumerate(self._seats) if seat.answer}
        try:
            ready = wait_for_answer(ray, list(asked), seconds)
        except (ConnectionError, ray.exceptions.RayError) as error:
            raise _gone(error) from error
        for answer in ready:
            place = asked[answer]
            try:
                messages = ray.get(answer)
            except ray.exceptions.OutOfMemoryError:
                self.release(place)
                yield place, Died("Ray ended it, because its host ran out of memory")
                continue
            except (ray.exceptions.RayActorError, ray.exceptions.NodeDiedError):
                self.release(place)
                yield place, Died("a host of the cluster, or its link, was lost", with_host=True)
                continue
            except ray.exceptions.RayTaskError as error:  # it cannot be read there, for example
                self.release(place)
                yield place, Ended(None, RuntimeError(f"a worker could not start on it: {error}"))
                continue
            except (ConnectionError, ray.exceptions.RayError) as error:
                raise _gone(error) from error
            seat = self._seats[place]
            seat.heard, seat.answer = True, None
            if not any(isinstance(message, Ended | Died) for message in messages):
                seat.answer = seat.actor.wait.remote(LONGEST_WAIT)
            for message in messages:
                yield place, message
        self._tell()

    def release(self, place: int) -> None:
        seat = self._seats[place]
        if seat.actor is not None:
            self._ray.kill(seat.actor)
        seat.actor = seat.answer = None

    def dismiss(self, place: int) -> None:
        """End a worker's process. Its actor keeps its GPUs: if they are broken, no other worker of
        this run is to get them."""
        seat = self._seats[place]
        if seat.actor is not None:
            seat.actor.dismiss.remote()

    def close(self, *, kill: bool) -> None:
        for place in range(len(self._seats)):
            if not self._ray.is_initialized():
                return  # The connection is lost, and the actors end with it.
            try:
                self.release(place)
            except (ConnectionError, self._ray.exceptions.RayError):
                return

    def _tell(self) -> None:
        """Say once of each worker that it waits for GPUs."""
        now = time.monotonic()
        late = [
            seat
            for seat in self._seats
            if seat.actor is not None and seat.heard is False and now - seat.since > PATIENCE
        ]
        if late:
            self._log(f"{len(late)} of {self.size} workers wait for GPUs, or are being started")
        for seat in late:
            seat.heard = None


def do_once(
    address: str, gpus: int, work: Callable[..., Any], item: Any, what: str, log: Log
) -> None:
    """Do an item on a host that has so many GPUs to spare, without a worker: for what neither loads
    a model nor takes long. Raises what the work raises, and BadInput when the cluster is gone."""
    ray = connect(address)
    task = ray.remote(_do_once).options(num_cpus=1, num_gpus=gpus if _gpus_in(ray) else 0)
    answer = task.remote(_variables(), work, item)
    try:
        if not wait_for_answer(ray, [answer], PATIENCE):
            log(f"{what}: it waits for GPUs, or is being started")
            wait_for_answer(ray, [answer], math.inf)
        ended = ray.get(answer)
    except ray.exceptions.RayTaskError as error:  # it cannot be read there, for example
        raise RuntimeError(
            f"{what}: it could not start on a host of the cluster: {error}"
        ) from error
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise _gone(error) from error
    except BaseException:  # An interrupt: the task must not take GPUs later.
        with suppress(ConnectionError, ray.exceptions.RayError):
            ray.cancel(answer)
        raise
    if ended.error is not None:
        raise ended.error


def wait_for_answer(ray: Any, answers: list[Any], seconds: float) -> list[Any]:
    """Return the first of the answers that has come, or none after so many seconds. Raises
    ConnectionError when the connection is lost.

    Sleeps here, since a signal ends a wait in Ray only if its handler raises KeyboardInterrupt:
    what Dagster's handler raises would come when that wait is over, as a SystemError.
    """
    end = time.monotonic() + seconds
    while ray.is_initialized():
        try:
            ready, _ = ray.wait(answers, num_returns=1, timeout=0)
        except SystemError as error:  # The handler of a signal has raised during this look.
            raise error.__cause__ or error from None
        left = end - time.monotonic()
        if ready or left <= 0:
            return ready
        time.sleep(min(LOOK_EVERY, left))
    raise ConnectionError("the connection is lost")


def _do_once(variables: dict[str, str], work: Callable[..., Any], item: Any) -> Ended:
    os.environ.update(variables)
    return do(work, item, lambda message: None)


class _Place:
    """A seat, and the messages that were asked of it and have not come."""

    actor: Any = None
    answer: Any = None
    since = 0.0
    heard: bool | None = None
    """Whether it has answered; None once the log says that it has not."""


def connect(address: str) -> Any:
    """Return Ray, connected to the cluster. Raises BadInput if it is not installed, there is no
    cluster, or it runs another version of Python or Ray."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_CLIENT_RECONNECT_GRACE_PERIOD", RECONNECT)
    # Else the first call after a lost connection would start a cluster on this host.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        ray: Any = import_module("ray")  # It need not be installed.
    except ImportError as error:
        raise BadInput(
            f"BACKDOOR_RAY_ADDRESS={address}: Ray is not installed: pip install -e '.[ray]'"
        ) from error
    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {"address": address}
    if address == "local":
        gpus = host_gpus()
        if gpus:  # Ray knows no BACKDOOR_GPUS.
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.id for gpu in gpus)
            os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        options |= {"num_gpus": len(gpus), "include_dashboard": False}
        if (processes := requested_processes()) is not None:
            options["num_cpus"] = processes
    try:
        _knock(address)
        ray.init(**options, log_to_driver=False, logging_level="error", namespace="backdoor_assets")
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        first = " ".join(str(error).split())[-300:]
        raise BadInput(
            f"BACKDOOR_RAY_ADDRESS={address}: no Ray cluster can be used there ({first}). Start "
            'one with `ray start --head`, or set it to "local", or unset it. A cluster that '
            "asks for a token needs RAY_AUTH_MODE=token here too."
        ) from error
    return ray


def _knock(address: str) -> None:
    """Raise OSError if nobody listens there: Ray would try for many minutes."""
    host, _, port = address.removeprefix("ray://").partition(":")
    if port:
        socket.create_connection((host, int(port)), timeout=20).close()


def workers_in_cluster(address: str, gpus: int) -> int:
    """Return how many workers with so many GPUs each the cluster has place for; one per core where
    it has no GPUs. Raises BadInput where no host has so many."""
    ray = connect(address)
    hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if _gpus_in(ray) == 0:
        return max(1, sum(int(host.get("CPU", 0)) for host in hosts))
    workers = sum(int(host.get("GPU", 0)) // gpus for host in hosts)
    if workers == 0:
        most = max(int(host.get("GPU", 0)) for host in hosts)
        raise BadInput(
            f"BACKDOOR_RAY_ADDRESS={address}: {gpus} GPUs of one host are needed, and the largest "
            f"host of the cluster has {most}; lower serving.tensor_parallel, or `processes` of the "
            "training"
        )
    return workers


def _gpus_in(ray: Any) -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def _variables() -> dict[str, str]:
    """Return what workers take over of this process's environment. No keys: each host has its own,
    and Ray shows what it is given in its dashboard."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("BACKDOOR_") and not name.startswith(KEPT_HERE)
    }


def _gone(error: BaseException) -> BadInput:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return BadInput(
        f"The Ray cluster is gone ({first}). What is finished is kept: start the cluster, and run "
        "the same command again to go on."
    )
