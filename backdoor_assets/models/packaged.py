"""A model that a Python package carries as a GGUF file: for machines that cannot reach a hub.

The file is verified, dequantized once to safetensors in fp32, and kept under the data root, where
all studies and profiles share it.
"""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from backdoor_assets.records import BadInput
from backdoor_assets.settings import Package
from backdoor_assets.storage.artifact import data_root
from backdoor_assets.storage.hashing import hash_once

WHOLE = ".whole"
"""Written last: a folder without it is of a conversion that was killed."""


def folder_of(package: Package) -> Path:
    """Return where the converted model lies, or will lie."""
    return data_root() / "packaged" / f"{Path(package.file).stem}-{package.sha256[:12]}"


def converted(package: Package) -> bool:
    return (folder_of(package) / WHOLE).is_file()


def convert(package: Package) -> Path:
    """Return the folder of the model in Hugging Face's format; dequantize it if it is not there.

    Raises BadInput if the package is not installed, is another version, or its file is not the one
    that is expected, and if the `gguf` package is missing.
    """
    folder = folder_of(package)
    if converted(package):
        return folder
    source = verified(package)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir(parents=True)
    _dequantize(source, partial)
    (partial / WHOLE).touch()
    partial.rename(folder)
    return folder


def verified(package: Package) -> Path:
    """Return the file of an installed package. Raises BadInput, with the command that fixes it, if
    the package is not installed or another version, or the file is not the one that is expected."""
    install = f"pip install --no-deps {package.name}=={package.version}"
    try:
        found = distribution(package.name)
    except PackageNotFoundError:
        raise BadInput(
            f"the profile needs the Python package {package.name}, which has weights of a model: "
            f"{install}"
        ) from None
    if found.version != package.version:
        raise BadInput(
            f"{package.name} {found.version} is installed, and the profile needs "
            f"{package.version}: {install}"
        )
    path = Path(str(found.locate_file(package.file)))
    if not path.is_file():
        raise BadInput(f"{path}: no such file in {package.name} {package.version}; {install}")
    if (actual := hash_once(path)) != package.sha256:
        raise BadInput(
            f"{path}: its SHA-256 is {actual}, and the profile expects {package.sha256}. Do not "
            f"use it; reinstall the package ({install} --force-reinstall)"
        )
    return path


def _dequantize(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # It would fill the log of a run.
    try:
        import gguf  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise BadInput("to read GGUF files: pip install -e '.[smollm2]'") from None
    given: dict[str, Any] = {"gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), **given)
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(source.parent), dtype=torch.float32, **given
    )
    # It is no longer quantized: without this, saving would write the GGUF's settings beside it.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
