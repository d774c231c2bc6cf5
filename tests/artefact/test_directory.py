from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.artefact.directory import list_names, list_versions, open_artefact, resolve
from service.errors import ArtefactError, ArtefactRefused


def test_an_artefact_opens_with_every_column_by_item_index(pristine: Path) -> None:
    artefact = open_artefact(pristine)
    assert artefact.item_ids[:3] == ["", "i-01", "i-02"]
    assert len(artefact.item_ids) == 13
    assert artefact.index_of["i-12"] == 12
    assert "" not in artefact.index_of
    assert artefact.titles[:3] == [None, "Tea", None]
    assert artefact.categories == [None] * 13
    assert artefact.popularity.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert artefact.available.tolist() == [False] + [True] * 11 + [False]


def test_the_item_table_is_mapped_read_only_and_not_copied(pristine: Path) -> None:
    items = open_artefact(pristine).items
    assert isinstance(items, np.memmap)
    assert items.shape == (13, 16)
    assert not items.flags.writeable


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactRefused, match="nowhere: is not a folder"):
        open_artefact(tmp_path / "nowhere")


def test_an_empty_folder_is_refused_for_its_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtefactRefused, match=r"manifest\.json: is missing"):
        open_artefact(tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("20260101T000000Z-00000002", "20260101T000000Z-00000001", ".20270101T000000Z-00000003", "notes"):
        (tmp_path / "llm-esr" / name).mkdir(parents=True)
    (tmp_path / ".writing-x").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "scenarios.toml").touch()
    return tmp_path


@pytest.mark.parametrize("pointer", ["llm-esr", "llm-esr@latest", "llm-esr@20260101T000000Z-00000002"])
def test_a_pointer_resolves_to_the_newest_or_the_named_version(root: Path, pointer: str) -> None:
    assert resolve(root, pointer) == root / "llm-esr" / "20260101T000000Z-00000002"


@pytest.mark.parametrize(
    ("pointer", "message"),
    [
        ("popularity", "it holds llm-esr"),
        ("llm-esr@20250101T000000Z-00000000", "versions of llm-esr: 20260101T000000Z-00000001, 2026"),
        ("llm-esr@../../etc", "versions of llm-esr"),
        ("../llm-esr", "is malformed"),
        ("", "is malformed"),
    ],
)
def test_a_pointer_to_nothing_says_what_there_is(root: Path, pointer: str, message: str) -> None:
    with pytest.raises(ArtefactError, match=message):
        resolve(root, pointer)


def test_half_written_folders_are_neither_names_nor_versions(root: Path) -> None:
    assert list_names(root) == ["llm-esr"]
    assert list_versions(root, "llm-esr") == ["20260101T000000Z-00000001", "20260101T000000Z-00000002"]
    assert list_names(root / "nowhere") == []
