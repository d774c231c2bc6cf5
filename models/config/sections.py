"""What every run says, whatever its model: data, loss, training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Shuffled = Literal["items", "users", "exemplars", "interests", "titles", "intents"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """Where the run reads. `$NAME` in a path is replaced from the environment."""

    dataset: Path
    split: str = "leave_one_out"
    knowledge: Path | None = None
    shuffle_knowledge: Annotated[
        tuple[Shuffled, ...],
        Field(description="a control: whose texts are dealt out anew, so that they say nothing of who has them"),
    ] = ()
    shuffle_seed: Annotated[int, Field(ge=0)] = 0


class LossConfig(Section):
    """What a position is taught: its next item against others."""

    kind: Literal["bce", "sampled_softmax", "full_softmax"] = "sampled_softmax"
    n_negatives: Annotated[
        int, Field(ge=1, description="bce: per position; sampled_softmax: shared by the positions of a batch")
    ] = 512
    negatives: Annotated[
        Literal["uniform", "popular"], Field(description="of sampled_softmax: evenly, or by training interactions")
    ] = "uniform"
    log_q: Annotated[
        bool, Field(description="sampled_softmax: count each negative for the items it stands for (logQ correction)")
    ] = False
    positions: Annotated[
        Literal["all", "last"], Field(description="which positions of a history are taught; bert4rec masks its own")
    ] = "all"
    mask_probability: Annotated[float, Field(gt=0, lt=1, description="of bert4rec: share of items masked")] = 0.6


class TrainConfig(Section):
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    batch_size: Annotated[int, Field(ge=1, description="users per step")] = 256
    weight_decay: Annotated[float, Field(ge=0, description="L2 of every parameter, as part of Adam's gradient")] = 0.0
    decay_every: Annotated[
        int, Field(ge=0, description="epochs after which the learning rate falls to a tenth, again and again; 0: never")
    ] = 0
    max_epochs: Annotated[int, Field(ge=1)] = 200
    patience: Annotated[
        int, Field(ge=1, description="epochs without a better validation, by the criterion of the paper")
    ] = 10
    teachers: Annotated[
        Literal["step", "epoch"], Field(description="encode the teachers anew in each step, or all once an epoch")
    ] = "step"
    device: Literal["auto", "cpu", "cuda"] = "auto"
