"""What a run is given: processes, a device, memory; and the quiet of its libraries."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Mapping
from typing import Literal

import torch
from pytorch_lightning.utilities import rank_zero_only

from vrx.errors import VRXError

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h


def first_process() -> bool:
    """Whether this is the only process, or rank 0 of several."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def quiet_logs() -> None:
    """Silence what libraries log about themselves."""
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch", "faiss", "timm", "filelock"):
        logging.getLogger(name).setLevel(logging.ERROR)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next tensor, where there is glibc: a layer's output is otherwise mapped
    anew, page by page, which on a CPU takes longer than the layer (docs/performance.md).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for option, size in ((M_MMAP_THRESHOLD, 2**30), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28)):
        mallopt(option, size)


def fast_precision() -> Literal["bf16", "fp32"]:
    """``bf16`` where this machine computes with it, ``fp32`` where it would emulate it, which takes 2.5 to 6 times as
    long (docs/performance.md).
    """
    found: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not say
    fast = torch.cuda.is_available() or any(found.get(name) for name in BF16_INSTRUCTIONS)
    return "bf16" if fast else "fp32"


def device_of(accelerator: str) -> torch.device:
    """Where F computes: where the trainer does.

    Raises:
        VRXError: a GPU is asked for and there is none, or there is no such device.
    """
    if accelerator not in ACCELERATORS:
        raise VRXError(f"trainer.accelerator={accelerator}: use {', '.join(ACCELERATORS)} (or device=cpu).")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise VRXError(f"trainer.accelerator={accelerator}: no GPU was found here. Use trainer=cpu (or device=cpu).")
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")
