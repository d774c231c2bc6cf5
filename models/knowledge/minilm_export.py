"""The ONNX graph of MiniLM, exported once into the user's cache directory and checked on every later use."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from models.errors import KnowledgeError

GRAPH: Final = "encoder.onnx"
RECORD: Final = "encoder.json"
OPSET: Final = 20


def model_digest(model: Path) -> str:
    """sha256 (hex) over the weights, the tokenizer and how they are used: what decides the vectors."""
    total = hashlib.sha256(b"first 256 word pieces, mean over them, unit length\n")
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        total.update(f"{file} {_sha256(model / file)}\n".encode())
    return total.hexdigest()


def cached_graph(model: Path, digest: str, cache: Path | None = None) -> Path:
    """The exported graph of `model` in `cache` (default: the user's cache directory), made if it is not there.

    Graph: input_ids and attention_mask int64 (batch, length) -> vectors float32 (batch, 384), unit length.

    Raises:
        KnowledgeError: the graph's sha256 is not the one recorded, or a package the export needs is missing.
    """
    folder = (cache or _default_cache()) / f"minilm-{digest[:12]}"
    if not folder.is_dir():
        _export_into(folder, model, digest)
    try:
        recorded = json.loads((folder / RECORD).read_text(encoding="utf-8"))["sha256"]
        found = _sha256(folder / GRAPH)
    except (OSError, ValueError, KeyError) as error:
        raise KnowledgeError(f"{folder}: not a complete export ({error}); delete the folder to export again") from error
    if found != recorded:
        raise KnowledgeError(
            f"{folder / GRAPH}: sha256 is {found}, expected {recorded} as recorded at export; "
            "delete the folder to export again"
        )
    return folder / GRAPH


def _default_cache() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("afterglow") / "encoders"


def _export_into(folder: Path, model: Path, digest: str) -> None:
    """Writes the graph and its record beside `folder` and renames; a copy another process made first is kept."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _export(model, fresh / GRAPH)
        record = {"sha256": _sha256(fresh / GRAPH), "model_digest": digest, "opset": OPSET}
        (fresh / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        try:
            os.rename(fresh, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _export(model: Path, graph: Path) -> None:
    try:
        import onnxscript  # noqa: F401  (torch asks for it only half-way through)
        import torch
        from transformers import AutoModel
    except ImportError as error:
        raise KnowledgeError(
            f"encoder 'minilm': its first use exports the model and needs package '{error.name}'; "
            "expected the extras: pip install 'afterglow[cpu,train,text]'"
        ) from error

    class SentenceEncoder(torch.nn.Module):
        """Transformer, mean over the real word pieces, unit length: what modules.json of the model lists."""

        def __init__(self) -> None:
            super().__init__()
            # Eager attention is plain matrix products, which every ONNX Runtime build has and fuses.
            self.bert = AutoModel.from_pretrained(str(model), attn_implementation="eager", local_files_only=True)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (B, L, 384)
            weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, p=2.0, dim=1)

    with _quiet():
        encoder = SentenceEncoder().eval()
        # Two rows of different length: a single example row would be frozen into the graph.
        input_ids = torch.arange(1000, 1032).reshape(2, 16)
        attention_mask = torch.ones_like(input_ids)
        attention_mask[1, 9:] = 0
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2, max=512)}
        program = torch.onnx.export(
            encoder,
            (input_ids, attention_mask),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            external_data=False,
            input_names=["input_ids", "attention_mask"],
            output_names=["vectors"],
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
        )
        assert program is not None
        program.save(str(graph))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter says about itself: deprecations inside torch, missing torchvision, a loading bar."""
    import transformers

    transformers_logging: Any = transformers.utils.logging  # untyped
    exporter = logging.getLogger("torch.onnx._internal.exporter._registration")
    level, bar = exporter.level, transformers_logging.is_progress_bar_enabled()
    exporter.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
        if bar:
            transformers_logging.enable_progress_bar()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
