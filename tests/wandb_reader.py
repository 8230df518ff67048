"""What an offline run really wrote, by W&B's own reader (``wandb leet inspect``)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def records(logs: Path) -> list[dict[str, Any]]:
    """All records of the one offline run beneath a folder, in order."""
    (run,) = logs.rglob("offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", str(run), "--json"]
    environment = {**os.environ, "WANDB_ERROR_REPORTING": "false"}
    read = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    if "No such command" in read.stderr:
        pytest.skip("this wandb has no reader of its own files (`wandb leet inspect`)")
    assert read.returncode == 0, read.stderr
    return [json.loads(line) for line in read.stdout.splitlines()]


def of(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The records of a kind."""
    return [record[kind] for record in found if record["type"] == kind]


def rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was logged, a row each."""
    return [record["item"] for record in of(found, "history")]


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The last value of every number of the run."""
    return {k: v for record in of(found, "summary") for k, v in record.get("update", {}).items()}
