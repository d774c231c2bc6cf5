"""The parts that a session configuration names, freshly initialised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, cast

import torch
from torch import Tensor, nn

from models.config import SessionEncoderConfig
from models.sessions.backbones import BackboneEncoder
from models.sessions.gce_gnn import GCEGNNEncoder, Neighbours
from models.sessions.interface import Readout, SessionEncoder
from models.sessions.sr_gnn import SRGNNEncoder
from models.sessions.stamp import ProductReadout, STAMPEncoder


class ConcatReadout(nn.Module):
    """W [local; global], with a bias (SR-GNN, equation 7)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * width, width)

    def forward(self, local_view: Tensor, global_view: Tensor) -> Tensor:
        mixed: Tensor = self.mix(torch.cat([local_view, global_view], dim=-1))
        return mixed


class LocalReadout(nn.Module):
    """The local view itself: GRU4Rec and SASRec ask with their last state."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, local_view: Tensor, global_view: Tensor) -> Tensor:
        return local_view


class GlobalReadout(nn.Module):
    """The global view itself: GCE-GNN's attention has the newest click in it."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, local_view: Tensor, global_view: Tensor) -> Tensor:
        return global_view


class _Parts(NamedTuple):
    encoder: Callable[[SessionEncoderConfig], nn.Module] | None  # None: built with a global graph
    readout: Callable[[int], nn.Module]


PARTS: Final[dict[str, _Parts]] = {
    "sr-gnn": _Parts(SRGNNEncoder, ConcatReadout),
    "gru4rec": _Parts(BackboneEncoder, LocalReadout),
    "sasrec": _Parts(BackboneEncoder, LocalReadout),
    "stamp": _Parts(STAMPEncoder, ProductReadout),
    "gce-gnn": _Parts(None, GlobalReadout),
}


def build_encoder(config: SessionEncoderConfig, neighbours: Neighbours | None = None) -> SessionEncoder:
    """The session encoder that `config` names; a torch module. gce-gnn wants the global graph of the training sessions.

    Raises:
        ValueError: gce-gnn got none.
    """
    make = PARTS[config.encoder].encoder
    if make is None:
        if neighbours is None:
            raise ValueError(f"{config.encoder} is built on the neighbours of items in training sessions")
        return cast(SessionEncoder, GCEGNNEncoder(config, neighbours))
    return cast(SessionEncoder, make(config))


def build_readout(config: SessionEncoderConfig) -> Readout:
    """The readout of the encoder's own paper; a torch module."""
    return cast(Readout, PARTS[config.encoder].readout(config.hidden_size))


def item_embeddings(n_items: int, width: int) -> nn.Parameter:
    """Learnt rows (n_items + 1, width), uniform in +-1/sqrt(width) as SR-GNN starts; row 0, padding, is zero."""
    bound = width**-0.5
    rows = torch.empty(n_items + 1, width).uniform_(-bound, bound)
    rows[0] = 0.0
    return nn.Parameter(rows)


def start_evenly(module: nn.Module, width: int) -> None:
    """Every parameter of `module` uniform in +-1/sqrt(width), as SR-GNN starts (sheet LLM4SBR, section 4)."""
    bound = width**-0.5
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -bound, bound)
