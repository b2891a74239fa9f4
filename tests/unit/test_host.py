"""What a host is said to have, with a stand-in for NVIDIA's tool on PATH."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import backdoor_assets.host as module
from backdoor_assets.host import Gpu, available_cores, gpus, installed, this_host
from backdoor_assets.records import BadInput

MIB = 2**20


def _nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Puts a `nvidia-smi` on PATH, alone there; it writes down what it was asked."""
    asked = folder / "asked"
    tool = folder / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "$@" > {asked}\n{script}\n', encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    for name in ("CUDA_VISIBLE_DEVICES", "BACKDOOR_GPUS"):
        monkeypatch.delenv(name, raising=False)
    return asked


def test_gpus_are_those_that_nvidia_smi_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = 'echo "NVIDIA H200, 143771, 143000, 0"; echo "Tesla T4, 15360, 512, 1"'
    asked = _nvidia_smi(tmp_path, monkeypatch, lines)
    assert this_host(tmp_path).gpus == (
        Gpu("NVIDIA H200", 143_771 * MIB, 143_000 * MIB, "0"),
        Gpu("Tesla T4", 15_360 * MIB, 512 * MIB, "1"),
    )
    assert asked.read_text().split() == [
        "--query-gpu=name,memory.total,memory.free,index",
        "--format=csv,noheader,nounits",
    ]


def test_only_gpus_that_cuda_may_see_are_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _nvidia_smi(tmp_path, monkeypatch, 'echo "Tesla T4, 15360, 512, 1"')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.id for gpu in this_host(tmp_path).gpus] == ["1"]
    assert "--id=1" in asked.read_text().split()
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert this_host(tmp_path).gpus == ()


def test_a_variable_chooses_gpus_and_refuses_those_that_are_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = 'echo "Tesla T4, 15360, 512, 9"'
    asked = _nvidia_smi(tmp_path, monkeypatch, f"{line}; {line}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    monkeypatch.setenv("BACKDOOR_GPUS", "0, GPU-2f3a")
    assert [gpu.id for gpu in gpus()] == ["0", "GPU-2f3a"]
    assert "--id=0,GPU-2f3a" in asked.read_text().split()
    for value, reason in (("0,1,7", "nvidia-smi -L"), ("0,0", "once"), ("0,,1", "once")):
        monkeypatch.setenv("BACKDOOR_GPUS", value)
        with pytest.raises(BadInput, match=f"BACKDOOR_GPUS={value}: .*{reason}"):
            gpus()


@pytest.mark.parametrize(
    "script",
    [
        "echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9",
        "echo 'Tesla T4, 15360, 512'; exit 9",
        "echo 'No devices were found'",
        "echo 'Tesla T4, [N/A], [N/A]'",
        "exit 0",
    ],
)
def test_a_failing_nvidia_smi_means_no_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    _nvidia_smi(tmp_path, monkeypatch, script)
    assert this_host(tmp_path).gpus == ()


def test_no_nvidia_smi_means_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert this_host(tmp_path).gpus == ()


def test_disk_is_that_of_the_nearest_folder_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    real = shutil.disk_usage

    def usage(path: Path) -> object:
        asked.append(Path(path))
        return real(path)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.chdir(tmp_path)
    host = this_host(Path("data/not/there/yet"))
    assert asked == [tmp_path]
    assert host.disk_free == pytest.approx(real(tmp_path).free, rel=0.1)
    assert not (tmp_path / "data").exists()


def test_memory_and_cores_are_this_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONTROL_GROUPS", tmp_path)
    host = this_host(tmp_path)
    assert host.memory_available == pytest.approx(psutil.virtual_memory().available, rel=0.3)
    assert 1 <= host.cores <= (psutil.cpu_count() or 1)


def test_a_container_has_the_memory_of_its_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONTROL_GROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("10000\n")
    (tmp_path / "memory.current").write_text("7000\n")
    (tmp_path / "memory.stat").write_text("anon 4000\ninactive_file 2000\nactive_file 500\n")
    assert this_host(tmp_path).memory_available == 10_000 - 7000 + 2500
    (tmp_path / "memory.max").write_text("max\n")
    assert this_host(tmp_path).memory_available > 2**20
    (tmp_path / "memory.max").write_text("nonsense\n")
    assert this_host(tmp_path).memory_available > 2**20


def test_a_container_has_the_cores_of_its_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONTROL_GROUPS", tmp_path)
    own = available_cores()
    for limit, cores in (("50000 100000", 1), ("max 100000", own), ("9900000 100000", own)):
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
        assert available_cores() == min(own, cores)


def test_a_package_is_looked_for_and_not_imported(tmp_path: Path) -> None:
    (tmp_path / "bursts.py").write_text("raise RuntimeError('it was imported')")
    program = (
        "from backdoor_assets.host import installed\n"
        "import sys\n"
        "print(installed('bursts'), installed('no_such_package'), 'bursts' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "False", "False"], done.stderr
    assert installed("pytest")
