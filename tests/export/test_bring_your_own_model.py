"""docs/bring-your-own-model.md is true: its code is run, its commands are run, its request is answered."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.registry import load_registry
from service.service import Service
from service.settings import Settings
from service.state.memory import MemoryStore

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bring-your-own-model.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's code and its first commands have been run."""
    folder = tmp_path_factory.mktemp("own")
    (code,) = blocks("python")
    (folder / "my_model.py").write_text(code)
    for line in blocks("bash")[0].splitlines():
        words = [
            str(path.relative_to(folder)) if "*" in word else word
            for word in shlex.split(line)
            for path in (sorted(folder.glob(word)) if "*" in word else [folder])
        ]
        assert words[0] == "python"
        done = subprocess.run([sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return folder


def test_the_model_of_the_page_fits_in_twenty_lines() -> None:
    (code,) = blocks("python")
    model = code[code.index("class ") : code.index("\nids = ")]
    assert len([line for line in model.splitlines() if line.strip()]) <= 20


async def test_the_request_of_the_page_is_answered_by_the_packed_model(folder: Path) -> None:
    (body,) = re.findall(r"-d '(.*?)'", blocks("bash")[2], re.DOTALL)
    settings = Settings(artefacts=folder / "artefacts", deadline_ms=10_000)
    service = Service(settings, MemoryStore(), lambda: load_registry(settings), state_name="memory")
    app = create_app(service)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        await service.until_loaded()
        response = await client.post("/v1/recommend", json=json.loads(body))
    reply: dict[str, Any] = response.json()
    assert response.status_code == 200, reply
    assert reply["served"]["tier"] == "model"
    assert reply["served"]["model"]["name"] == "next-item"
    assert len(reply["items"]) == 3
    assert reply["items"][0]["item_id"] == "tray"  # what the page promises
    assert not {"tea", "kettle", "mug"} & {item["item_id"] for item in reply["items"]}
