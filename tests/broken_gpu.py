"""Work on GPUs of which some are broken."""

from __future__ import annotations

import os
import time
from pathlib import Path

from backdoor_assets.records import Progress
from backdoor_assets.workers.item_queue import FAULTS_IN_A_ROW


def work_unless_broken(item: tuple[Path, str, int], progress: Progress) -> str:
    """Note the start, then fail as a broken GPU does if this worker's is one. Others wait until a
    worker has been retired."""
    folder, broken, number = item
    gpu = os.environ["CUDA_VISIBLE_DEVICES"]
    (folder / f"{gpu}-{os.getpid()}-{number}").touch()
    if gpu in broken:
        if folder.name == "crash":
            os.abort()
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nSee the manual.")
    end = time.monotonic() + 60
    while len(list(folder.glob(f"[{broken}]-*"))) < FAULTS_IN_A_ROW and time.monotonic() < end:
        time.sleep(0.05)
    return gpu
