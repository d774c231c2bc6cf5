"""Items added to an artefact by their text alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest
from rich.console import Console
from typer.testing import CliRunner

from export.add_items import add_items, extended_graph, locate
from export.cli import app
from export.errors import ExportError
from models.errors import KnowledgeError, RunError
from models.llm_esr import LLMESR
from models.runs import Run, load_run
from service.artefact.check import check_report
from service.artefact.directory import list_versions, open_artefact
from service.artefact.files import ENCODER, digest
from service.artefact.manifest import ItemTableSpec
from service.inference.loader import load
from service.inference.similarity import ItemSimilarity

QUIET = Console(quiet=True)
# In item_id order one stands before every item of the run, one between, one after.
NEW = pa.Table.from_pylist(
    [
        {"item_id": "a-first", "title": "thing 5", "category": "odd"},
        {"item_id": "i05-b", "title": "thing five", "category": None},
        {"item_id": "z-last", "title": None, "category": "even"},
    ]
)
N_OLD, N_NEW = 24, 3


@pytest.fixture
def root(exported: Path, tmp_path: Path) -> Path:
    """A folder of artefacts of its own, with the run's artefact in it."""
    shutil.copytree(exported, tmp_path / "artefacts" / exported.parent.name / exported.name)
    return tmp_path / "artefacts"


@pytest.fixture
def old(root: Path, exported: Path) -> Path:
    return root / exported.parent.name / exported.name


@pytest.fixture(scope="module")
def added(exported: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artefact with the three items, in a folder of its own; tests read it."""
    root = tmp_path_factory.mktemp("added")
    return add_items(open_artefact(exported), NEW, run, root, console=QUIET).path


def everything(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): digest(path).sha256 for path in root.rglob("*") if path.is_file()}


def test_a_new_version_stands_beside_the_old_one_which_stays_as_it_was(root: Path, old: Path, run: Run) -> None:
    before = everything(root)
    path = add_items(open_artefact(old), NEW, run, root, console=QUIET).path
    assert check_report(path) == []
    assert list_versions(root, "cycle") == [old.name, path.name]  # also when both were made within one second
    after = everything(root)
    assert {name: after[name] for name in before} == before
    assert sorted(entry.name for entry in root.iterdir()) == ["cycle"]


def test_rows_are_appended_and_none_is_renumbered(old: Path, added: Path) -> None:
    before, after = open_artefact(old), open_artefact(added)
    assert after.manifest.n_items == N_OLD + N_NEW
    assert after.item_ids == [*before.item_ids, "a-first", "i05-b", "z-last"]
    np.testing.assert_array_equal(after.items[: N_OLD + 1], before.items)
    assert after.titles[-3:] == ["thing 5", "thing five", None]
    assert after.categories[-3:] == ["odd", None, "even"]
    assert after.popularity.tolist() == [*before.popularity.tolist(), 0, 0, 0]
    assert after.available[1:].all()


def test_histories_of_old_items_are_encoded_as_before(old: Path, added: Path) -> None:
    histories = [[1], [3, 4, 5], [*range(1, 25)], []]
    queries = [load(path, intra_op_threads=1, device="cpu").retriever.encode(histories) for path in (old, added)]
    np.testing.assert_array_equal(*queries)


def test_the_semantic_half_of_a_known_text_is_that_of_the_item_which_has_it(added: Path, run: Run) -> None:
    artefact = open_artefact(added)
    known, new = artefact.items[artefact.index_of["i05"]], artefact.items[artefact.index_of["a-first"]]
    np.testing.assert_allclose(new[8:], known[8:], rtol=1e-4, atol=1e-5)


def test_a_new_item_can_be_asked_with_recommended_and_found_as_similar(added: Path) -> None:
    loaded = load(added, intra_op_threads=1, device="cpu")
    index = loaded.artefact.index_of
    queries = loaded.retriever.encode([[index["a-first"]]])
    nothing = [np.empty(0, np.int64)]
    ((items, _),) = loaded.topk.search(queries, N_OLD + N_NEW, nothing)
    assert set(items.tolist()) == set(range(1, N_OLD + N_NEW + 1))
    similarity = ItemSimilarity(loaded.artefact.items, loaded.artefact.available)
    ((near, _),) = similarity.search([[index["i05"]]], 3, [np.array([index["i05"]])])
    assert len(near) == 3


def test_the_manifest_tells_what_was_added_and_what_was_evaluated(old: Path, added: Path, run: Run) -> None:
    before, after = open_artefact(old).manifest, open_artefact(added).manifest
    (addition,) = after.dataset["added_items"]  # type: ignore[misc, union-attr]
    assert addition["from_version"] == old.name  # type: ignore[call-overload, index]
    assert addition["n_items"] == 3  # type: ignore[call-overload, index]
    assert after.n_evaluated_items == before.n_evaluated_items == N_OLD
    kept = {"dataset", "version", "created_at", "n_items", "files", "item_tables", "golden"}
    assert after.model_dump(exclude=kept) == before.model_dump(exclude=kept)


def test_items_are_added_to_what_was_added(root: Path, added: Path, run: Run) -> None:
    more = pa.table({"item_id": ["b"], "title": ["thing 7"]})
    twice = add_items(open_artefact(added), more, run, root, console=QUIET).path
    assert twice.name > added.name
    before, after = open_artefact(added), open_artefact(twice)
    assert after.item_ids == [*before.item_ids, "b"]
    np.testing.assert_array_equal(after.items[:-1], before.items)
    assert after.manifest.n_evaluated_items == N_OLD
    assert [one["n_items"] for one in after.manifest.dataset["added_items"]] == [3, 1]  # type: ignore[union-attr, index, call-overload]
    assert locate(root / "cycle") == twice


def test_a_column_the_knowledge_never_quoted_changes_nothing(root: Path, old: Path, run: Run, added: Path) -> None:
    more = NEW.append_column("plot", pa.array(["a long story"] * 3))
    path = add_items(open_artefact(old), more, run, root, console=QUIET).path
    np.testing.assert_array_equal(open_artefact(path).items, open_artefact(added).items)


Spoil = Callable[[Path, Run], tuple[Path, pa.Table, Run]]


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        pytest.param(
            lambda old, run: (old, pa.table({"item_id": ["i03", "n"], "title": ["x", "y"]}), run),
            ExportError,
            r"already has 1 of the 2 items \(i03\)",
            id="id in the artefact",
        ),
        pytest.param(
            lambda old, run: (old, pa.table({"item_id": ["m", "n"], "title": ["thing", "  "]}), run),
            KnowledgeError,
            r"1 of 2 items have no text \(n\)",
            id="one without text",
        ),
        pytest.param(
            lambda old, run: (old, pa.table({"item_id": ["m"]}), run),
            KnowledgeError,
            r"1 of 1 items have no text \(m\); expected a title",
            id="none with text",
        ),
        pytest.param(
            lambda old, run: (old, NEW, _with(run, encoder={**run.knowledge["encoder"], "digest": "0" * 64})),
            KnowledgeError,
            "the knowledge was built with 000000000000",
            id="encoder of another version",
        ),
        pytest.param(
            lambda old, run: (old, NEW, _with(run, encoder={**run.knowledge["encoder"], "name": "openai:some-model"})),
            KnowledgeError,
            r"encoder 'openai:some-model', which is not on this machine; .* --answers",
            id="encoder elsewhere",
        ),
        pytest.param(
            lambda old, run: (old, NEW, _with(run, shuffled={"what": ["items"], "seed": 0})),
            ExportError,
            "shuffled knowledge",
            id="shuffled",
        ),
        pytest.param(
            lambda old, run: (old, NEW, _with_other_rows(run)),
            ExportError,
            "was not exported from the run .*: row 7 differs by 1",
            id="another training",
        ),
    ],
)
def test_what_cannot_be_added_is_refused_and_leaves_nothing(
    root: Path, old: Path, run: Run, spoil: Spoil, error: type[Exception], message: str
) -> None:
    path, items, spoilt = spoil(old, run)
    before = everything(root)
    with pytest.raises(error, match=message):
        add_items(open_artefact(path), items, spoilt, root, console=QUIET)
    assert everything(root) == before
    assert sorted(entry.name for entry in root.iterdir()) == ["cycle"]


def test_a_failure_while_writing_leaves_nothing(
    root: Path, old: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("export.add_items.onnx.save", full)
    before = everything(root)
    with pytest.raises(OSError, match="no space left"):
        add_items(open_artefact(old), NEW, run, root, console=QUIET)
    assert everything(root) == before
    assert sorted(entry.name for entry in root.iterdir()) == ["cycle"]


def test_an_item_table_that_cannot_be_extended_is_named(root: Path, old: Path, run: Run) -> None:
    artefact = open_artefact(old)
    table = ItemTableSpec(file="near.npy", dtype="int64", shape=[25, 10], meaning="neighbours")
    tables = {**artefact.manifest.item_tables, "neighbours": table}
    with_table = replace(artefact, manifest=artefact.manifest.model_copy(update={"item_tables": tables}))
    with pytest.raises(ExportError, match=r"item table 'neighbours' \(near.npy\) cannot be extended"):
        add_items(with_table, NEW, run, root, console=QUIET)
    files = {**artefact.manifest.files, "index.bin": artefact.manifest.files[ENCODER]}
    with_file = replace(artefact, manifest=artefact.manifest.model_copy(update={"files": files}))
    with pytest.raises(ExportError, match=r"file index.bin cannot be extended"):
        add_items(with_file, NEW, run, root, console=QUIET)


def test_a_graph_with_a_table_of_its_own_is_refused(tmp_path: Path, old: Path) -> None:
    model = onnx.load(old / ENCODER, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "other.npy"
    onnx.save(model, tmp_path / ENCODER)
    with pytest.raises(ExportError, match=r"reads items.npy as tables of shape \[\], expected \[25, 16\]"):
        extended_graph(tmp_path / ENCODER, (25, 16), (28, 16))


def test_a_model_of_ids_alone_is_refused(root: Path, old: Path, run: Run) -> None:
    config = run.model.config.model_copy(
        update={"views": ("collaborative",), "hidden_size": 16, "collaborative_init": "random"}
    )
    plain = LLMESR(config, N_OLD, None).eval()
    plain.item_embeddings.data[:] = run.model.item_table()
    with pytest.raises(RunError, match="no place for a new text"):
        add_items(open_artefact(old), NEW, replace(run, model=plain), root, console=QUIET)
    assert list_versions(root, "cycle") == [old.name]


def test_the_command_prints_the_new_folder(root: Path, old: Path, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("item_id,title\nn1,thing 3\n")
    arguments = ["add-items", str(root / "cycle"), str(tmp_path / "new.csv"), "--run", str(run_folder)]
    result = CliRunner().invoke(app, arguments, prog_name="python -m export")
    assert result.exit_code == 0, result.stderr
    path = Path(result.stdout.strip())
    assert path.name == list_versions(root, "cycle")[-1] != old.name
    assert "1 items added, 25 in all; a text explains" in result.stderr
    again = CliRunner().invoke(app, arguments, prog_name="python -m export")
    assert again.exit_code == 1
    assert "already has 1 of the 1 items (n1)" in again.stderr.splitlines()[-1]


def _with(run: Run, **changes: object) -> Run:
    assert run.knowledge is not None
    return replace(run, knowledge={**run.knowledge, **changes})


def _with_other_rows(run: Run) -> Run:
    other = load_run(run.path)
    other.model.item_embeddings.data[7, 0] += 1
    return other
