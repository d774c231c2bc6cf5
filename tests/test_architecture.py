"""The picture of the repository, kept true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.app import create_app
from service.service import Service
from service.settings import ENV_PREFIX, Settings
from service.state.memory import MemoryStore

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Import `service.app` with every training library hidden, as in an image that never had them.
_HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnxscript", "sklearn", "transformers", "models", "export"}:
            raise ImportError(f"{name} is not part of a serving install")
sys.meta_path.insert(0, Hidden())
import service.app, service.__main__
"""


def test_the_service_imports_without_any_training_library() -> None:
    done = subprocess.run([sys.executable, "-c", _HIDDEN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_service_does_not_start_anything() -> None:
    code = (
        "import threading, service.app, service.__main__; assert threading.active_count() == 1, threading.enumerate()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_names_every_setting_with_its_default_and_meaning() -> None:
    rows = set(re.findall(rf"^\| `({ENV_PREFIX}\w+)` \| `?([^|]*?)`? \| (.*) \|$", README, re.MULTILINE))
    expected = {
        (
            ENV_PREFIX + name.upper(),
            "none"
            if field.default is None
            else str(field.default).lower()
            if isinstance(field.default, bool)
            else str(field.default),
            field.description,
        )
        for name, field in Settings.model_fields.items()
    }
    assert rows == expected


def test_the_readme_names_every_route() -> None:
    app = create_app(Service(Settings(), MemoryStore(), lambda: pytest.fail("nothing is loaded to document routes")))
    rows = set(re.findall(r"^\| `(GET|POST|DELETE) (/[^`]*)` \|", README, re.MULTILINE))
    documented = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    assert rows == documented


def test_no_tracked_file_is_large_or_names_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        content = (ROOT / name).read_bytes()
        assert len(content) <= 1_048_576, f"{name} has {len(content)} bytes"
        assert not re.search(rb"/(home|root|work)/\w", content), f"{name} names a path of one machine"
