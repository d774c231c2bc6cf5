from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from knowledge_fakes import MakeDataset, RecordingEncoder
from rich.console import Console

from models.data.dataset import Dataset
from models.data.splits import leave_one_out
from models.errors import KnowledgeError
from models.knowledge.encoders import HashEncoder
from models.knowledge.prompts import item_prompts, user_prompts
from models.knowledge.store import build_knowledge, load_knowledge


def build(
    dataset: Dataset, folder: Path, encoder: HashEncoder | None = None, console: Console | None = None, **sizes: int
) -> bool:
    return build_knowledge(
        dataset,
        leave_one_out(dataset),
        folder,
        encoder or HashEncoder(),
        console=console or Console(quiet=True),
        **sizes,
    )


def rewrite(folder: Path, name: str, **arrays: np.ndarray) -> None:
    """Replaces arrays of a file and records its new digest, as a writer with another order of ids would."""
    with np.load(folder / name) as found:
        arrays = {**found, **arrays}
    np.savez(folder / name, **arrays)  # type: ignore[arg-type]
    provenance = json.loads((folder / "knowledge.json").read_text())
    provenance["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "knowledge.json").write_text(json.dumps(provenance))


def test_what_is_loaded_is_what_the_encoder_said(five_items: Dataset, tmp_path: Path) -> None:
    assert build(five_items, tmp_path / "k")
    knowledge = load_knowledge(tmp_path / "k", five_items, "leave_one_out")
    encode = HashEncoder().encode
    assert knowledge.item_vectors.shape == (6, 64)
    assert not knowledge.item_vectors[0].any()
    np.testing.assert_allclose(knowledge.item_vectors[1:], encode(item_prompts(five_items)).vectors, atol=1e-3)
    users = encode(user_prompts(five_items, leave_one_out(five_items).train)).vectors
    np.testing.assert_allclose(knowledge.user_vectors, users, atol=1e-3)
    # Training: u1 red lamp; u2 blue lamp, red lamp; u3 red lamp, blue lamp; u4 green chair.
    assert knowledge.similar_users[:3, 0].tolist() == [1, 2, 1]
    assert knowledge.similar_users.shape == (4, 3)
    assert knowledge.pca_components.shape == (5, 64)
    np.testing.assert_allclose(knowledge.pca_mean, knowledge.item_vectors[1:].mean(0), atol=1e-6)
    for array in (knowledge.item_vectors, knowledge.user_vectors, knowledge.pca_mean, knowledge.pca_components):
        assert array.dtype == np.float32


def test_the_provenance_says_encoder_prompts_split_dataset_date_and_tokens(five_items: Dataset, tmp_path: Path) -> None:
    build(five_items, tmp_path / "k", n_similar=2, n_components=3)
    said = load_knowledge(tmp_path / "k", five_items).provenance
    assert said["encoder"] == {"name": "hash", "digest": HashEncoder.digest, "dim": 64}
    assert said["test_only"] is True
    assert said["split"] == "leave_one_out"
    assert said["dataset"] == {"name": "hand", "digest": "d1"}
    assert said["prompts"]["item"]["n_texts"] == 5
    assert said["prompts"]["user"]["template"].startswith("What does a customer like")
    assert "section 3" in said["prompts"]["user"]["source"]
    assert said["files"]["items.npz"]["n_tokens"] == 10
    assert said["files"]["similar_users.npz"]["n"] == 2
    assert said["files"]["item_pca.npz"]["n_components"] == 3
    assert said["created"].endswith("+00:00")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k"]


def test_a_test_encoder_is_announced(five_items: Dataset, tmp_path: Path) -> None:
    console = Console(record=True, quiet=False, file=(tmp_path / "log").open("w"), width=200)
    build(five_items, tmp_path / "k", console=console)
    assert "warning: encoder 'hash' is for tests only" in console.export_text()
    console.file.close()


def test_the_same_build_again_does_nothing(five_items: Dataset, tmp_path: Path) -> None:
    build(five_items, tmp_path / "k")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "k").iterdir()}
    encoder = RecordingEncoder()
    assert not build(five_items, tmp_path / "k", encoder)
    assert encoder.calls == []
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "k").iterdir()} == before


def test_a_damaged_folder_is_built_again_from_what_is_whole(five_items: Dataset, tmp_path: Path) -> None:
    build(five_items, tmp_path / "k")
    (tmp_path / "k" / "users.npz").write_bytes(b"cut")
    encoder = RecordingEncoder()
    assert build(five_items, tmp_path / "k", encoder)
    assert len(encoder.calls) == 1  # users; the items were whole
    load_knowledge(tmp_path / "k", five_items)


def test_an_interrupted_build_leaves_no_folder_and_goes_on_after_the_items(five_items: Dataset, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(five_items, tmp_path / "k", RecordingEncoder(interrupt_at=1))
    assert not (tmp_path / "k").exists()
    encoder = RecordingEncoder()
    assert build(five_items, tmp_path / "k", encoder)
    assert [text.startswith("What does") for call in encoder.calls for text in call] == [True] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k"]
    assert len(load_knowledge(tmp_path / "k", five_items).item_vectors) == 6


def test_an_interrupted_rebuild_leaves_the_old_folder_whole(
    five_items: Dataset, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    build(five_items, tmp_path / "k")
    changed = make_dataset({"u1": ["a", "b"]}, {"a": "bread", "b": "milk"}, digest="d2")
    with pytest.raises(KeyboardInterrupt):
        build(changed, tmp_path / "k", RecordingEncoder(interrupt_at=0))
    load_knowledge(tmp_path / "k", five_items)
    assert build(changed, tmp_path / "k")
    assert load_knowledge(tmp_path / "k", changed).item_vectors.shape[0] == 3


def test_a_build_cut_between_the_two_renames_is_finished_without_encoding(five_items: Dataset, tmp_path: Path) -> None:
    build(five_items, tmp_path / "k")
    (tmp_path / "k").rename(tmp_path / ".k.building")
    encoder = RecordingEncoder()
    assert build(five_items, tmp_path / "k", encoder)
    assert encoder.calls == []
    load_knowledge(tmp_path / "k", five_items)


def test_other_histories_keep_the_item_vectors(five_items: Dataset, make_dataset: MakeDataset, tmp_path: Path) -> None:
    build(five_items, tmp_path / "k")
    titles = {"a": "red lamp", "b": "blue lamp", "c": "green chair", "d": "red chair", "e": "oak table"}
    encoder = RecordingEncoder()
    assert build(make_dataset({"u1": ["e"], "u2": ["c"]}, titles, digest="d2"), tmp_path / "k", encoder)
    assert [text.partition(": ")[2] for text in encoder.calls[0]] == ["oak table", "green chair"]
    assert len(encoder.calls) == 1


def test_rows_are_matched_by_id_and_neighbours_follow(five_items: Dataset, tmp_path: Path) -> None:
    build(five_items, tmp_path / "k")
    expected = load_knowledge(tmp_path / "k", five_items)
    folder, order = tmp_path / "k", np.array([2, 0, 3, 1])
    with np.load(folder / "users.npz") as users, np.load(folder / "similar_users.npz") as similar:
        user_ids, vectors, neighbours = users["ids"], users["vectors"], similar["neighbours"]
    rewrite(folder, "users.npz", ids=user_ids[order], vectors=vectors[order])
    rewrite(folder, "similar_users.npz", ids=user_ids[order], neighbours=np.argsort(order)[neighbours[order]])
    with np.load(folder / "items.npz") as items:
        item_ids, item_vectors = items["ids"], items["vectors"]
    rewrite(folder, "items.npz", ids=item_ids[::-1], vectors=item_vectors[::-1])
    found = load_knowledge(folder, five_items)
    np.testing.assert_array_equal(found.item_vectors, expected.item_vectors)
    np.testing.assert_array_equal(found.user_vectors, expected.user_vectors)
    np.testing.assert_array_equal(found.similar_users, expected.similar_users)


def test_missing_and_foreign_ids_are_named(five_items: Dataset, tmp_path: Path) -> None:
    build(five_items, tmp_path / "k")
    rewrite(tmp_path / "k", "items.npz", ids=np.array(["a", "b", "x", "d", "e"]))
    with pytest.raises(KnowledgeError, match=r"items.npz: 5 ids, expected 5: missing 1 \(c\), foreign 1 \(x\)"):
        load_knowledge(tmp_path / "k", five_items)


def test_a_changed_or_missing_file_is_refused_by_name(five_items: Dataset, tmp_path: Path) -> None:
    build(five_items, tmp_path / "k")
    content = (tmp_path / "k" / "users.npz").read_bytes()
    (tmp_path / "k" / "users.npz").write_bytes(content + b"\0")
    with pytest.raises(KnowledgeError, match=r"users.npz: sha256 is \w{64}, knowledge.json says \w{64}"):
        load_knowledge(tmp_path / "k", five_items)
    (tmp_path / "k" / "users.npz").unlink()
    with pytest.raises(KnowledgeError, match=r"users.npz: missing"):
        load_knowledge(tmp_path / "k", five_items)
    (tmp_path / "k" / "knowledge.json").write_text("{}")
    with pytest.raises(KnowledgeError, match=r"knowledge.json: no encoder, test_only, dataset"):
        load_knowledge(tmp_path / "k", five_items)
    with pytest.raises(KnowledgeError, match=r"nowhere: no knowledge.json"):
        load_knowledge(tmp_path / "nowhere", five_items)


def test_knowledge_of_another_dataset_or_split_is_refused(
    five_items: Dataset, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    build(five_items, tmp_path / "k")
    with pytest.raises(KnowledgeError, match=r"digest d1, expected 'hand' with d2"):
        load_knowledge(tmp_path / "k", make_dataset({"u": ["a"]}, {"a": "x"}, digest="d2"))
    with pytest.raises(KnowledgeError, match="split 'leave_one_out', expected 'global_time'"):
        load_knowledge(tmp_path / "k", five_items, "global_time")


def test_a_folder_with_other_things_is_not_replaced(five_items: Dataset, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(KnowledgeError, match=r"holds notes.txt, which no knowledge has"):
        build(five_items, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
