"""Hidden states of a decoder on this machine as vectors: what LLM4MSR takes from a language model, not its words.

LLM4MSR (arXiv:2406.12529): a frozen model reads a prompt and one of its layers is kept. Weights come from a folder or
from the Hugging Face hub and its cache; code that a model brings along is never run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import KnowledgeError
from models.knowledge.answer_cache import AnswerCache
from models.knowledge.batch import embedding_request
from models.knowledge.encoders import Encoded, Report
from models.knowledge.hidden_options import Dtype, HiddenOptions, Pooling, digest_of_states
from models.knowledge.validate import packed_vector, vectors_of

TOKENS_PER_BATCH: Final = {"cpu": 2048, "cuda": 16_384}  # padded


class State(NamedTuple):
    """What reading one text gave."""

    vector: NDArray[np.float32]  # (dim,)
    n_tokens: int  # read, after the cut
    is_cut: bool


class HiddenStates:
    """A TextEncoder whose vector of a text is a hidden state of `model`; kept texts are not read again.

    Every vector is in `cache` once its batch is done, by model, options and text: an interrupted run goes on.
    """

    test_only: Final = False

    def __init__(self, model: str, cache: AnswerCache, options: HiddenOptions | None = None) -> None:
        """Loads the model.

        Args:
            model: a folder with weights and tokenizer, or a name in the hub's cache.

        Raises:
            KnowledgeError: the extra is missing, the model cannot be loaded, or it has no such layer.
        """
        transformers = _transformers()
        self.options = options or HiddenOptions()
        self._cache = cache
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        usual = Dtype.float32 if self._device.type == "cpu" else Dtype.bfloat16
        self.dtype = usual if self.options.dtype is Dtype.auto else self.options.dtype
        self._generates = self.options.pooling is Pooling.last_gen_token
        kind = transformers.AutoModelForCausalLM if self._generates else transformers.AutoModel
        where = {"revision": self.options.revision, "trust_remote_code": False}
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(model, **where)
            self._model = kind.from_pretrained(model, dtype=getattr(torch, self.dtype), **where)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise KnowledgeError(f"model '{model}' cannot be loaded by transformers: {reason}") from error
        self._model = self._model.to(self._device).eval()
        config = self._model.config
        self.dim = int(config.hidden_size)
        if not -config.num_hidden_layers - 1 <= self.options.layer <= config.num_hidden_layers:
            raise KnowledgeError(
                f"model '{model}' has layers 0 to {config.num_hidden_layers}, found layer {self.options.layer}"
            )
        label = Path(model).resolve().name if Path(model).is_dir() else model
        self.model = label
        self.revision = getattr(config, "_commit_hash", None) or self.options.revision
        self.weights = _digest(Path(model)) if Path(model).is_dir() else str(self.revision)
        self.digest = digest_of_states(self.describe())
        self.name = f"transformers:{label} ({self.options.pooling}, layer {self.options.layer}, {self.dtype})"

    def describe(self) -> dict[str, Any]:
        """Where the vectors come from, for knowledge.json."""
        about = {**asdict(self.options), "model": self.model, "revision": self.revision, "weights": self.weights}
        if not self._generates:
            del about["max_new_tokens"]
        return {**about, "dtype": self.dtype, "dim": self.dim}

    def encode(self, texts: Sequence[str], report: Report | None = None) -> Encoded:
        """Vectors float32 (texts, dim), not normalised: LLM4MSR norms them where it reads them."""
        states = self.read(texts, report)
        vectors = np.stack([state.vector for state in states]) if states else np.zeros((0, self.dim), np.float32)
        return Encoded(vectors, sum(state.n_tokens for state in states), sum(state.is_cut for state in states))

    def read(self, texts: Sequence[str], report: Report | None = None) -> list[State]:
        """The state of every text, in their order.

        Raises:
            KnowledgeError: a text has no token, or a state is beyond float16.
        """
        ids = [self._tokenizer(text)["input_ids"] for text in texts]
        if empty := [text for text, tokens in zip(texts, ids, strict=True) if not tokens]:
            raise KnowledgeError(f"model '{self.model}': a text has no token: {empty[0][:60]!r}")
        prompts = [tokens[-self.options.max_tokens :] for tokens in ids]
        vectors = {row: kept for row, text in enumerate(texts) if (kept := self._kept(text)) is not None}
        total, done = sum(map(len, prompts)), sum(len(prompts[row]) for row in vectors)
        for rows in self._batches([row for row in range(len(texts)) if row not in vectors], prompts):
            for row, vector in zip(rows, self._states([prompts[row] for row in rows]), strict=True):
                if not (np.abs(vector) <= np.finfo(np.float16).max).all():
                    raise KnowledgeError(
                        f"model '{self.model}': layer {self.options.layer} of {texts[row][:60]!r} is not finite or "
                        "beyond float16; another --layer or --dtype may help"
                    )
                vectors[row] = vector
                body = {"data": [{"index": 0, "embedding": packed_vector(vector)}]}
                self._cache.put(self.digest, _key(texts[row]), body)
                done += len(prompts[row])
            if report is not None:
                report(done, total)
        return [State(vectors[row], len(prompt), len(prompt) < len(ids[row])) for row, prompt in enumerate(prompts)]

    def _kept(self, text: str) -> NDArray[np.float32] | None:
        body = self._cache.get(self.digest, _key(text))
        try:
            return None if body is None else np.asarray(vectors_of(body, 1)[0])
        except ValueError:
            return None

    def _batches(self, todo: Sequence[int], prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Rows of similar length, longest first, within the budget of padded tokens; one at a time to generate from."""
        order = sorted(todo, key=lambda row: -len(prompts[row]))
        budget = 1 if self._generates else TOKENS_PER_BATCH[self._device.type]
        start = 0
        while start < len(order):
            size = max(1, budget // len(prompts[order[start]]))
            yield order[start : start + size]
            start += size

    @torch.inference_mode()
    def _states(self, prompts: list[list[int]]) -> NDArray[np.float32]:
        """float32 (prompts, dim). Padded on the right: a decoder's state of a token depends on nothing after it."""
        if self._generates:
            prompts = [self._continued(prompt) for prompt in prompts]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        input_ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.int64, device=self._device)
        for row, prompt in enumerate(prompts):
            input_ids[row, : len(prompt)] = torch.tensor(prompt)
        mask = torch.arange(input_ids.shape[1], device=self._device) < lengths[:, None]  # (B, L)
        output = self._model.base_model(
            input_ids=input_ids, attention_mask=mask.long(), output_hidden_states=self.options.layer != -1
        )
        states = output.last_hidden_state if self.options.layer == -1 else output.hidden_states[self.options.layer]
        pooled = self._pooled(states.float(), mask, lengths)
        vectors: NDArray[np.float32] = pooled.cpu().numpy()
        return vectors

    def _pooled(self, states: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        if self.options.pooling is Pooling.mean_prompt:
            return (states * mask[..., None]).sum(1) / lengths[:, None]
        return states[torch.arange(len(states), device=states.device), lengths - 1]

    def _continued(self, prompt: list[int]) -> list[int]:
        """The prompt and its greedy continuation."""
        input_ids = torch.tensor([prompt], device=self._device)
        continued = self._model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.options.max_new_tokens,
            pad_token_id=0,
        )
        return list(continued[0].tolist())


def _key(text: str) -> str:
    return embedding_request("", "", text).digest


def _digest(folder: Path) -> str:
    """sha256 (hex) over names and bytes of what decides the states: weights, configuration, tokenizer."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".safetensors", ".bin", ".json", ".model", ".txt"):
            with path.open("rb") as stream:
                total.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise KnowledgeError(
            f"package '{error.name}' is not installed; hidden states need the extras: "
            "pip install 'afterglow[train,hidden]'"
        ) from error
    return transformers
