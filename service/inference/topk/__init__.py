"""The best k items of the whole catalogue for each query: `score(item) = max over queries of <query, item>`."""

from service.inference.topk.blocked import ExactTopK
from service.inference.topk.choose import BACKENDS, Backend, Choice, choose, make_topk
from service.inference.topk.contract import Ranked, TopK

__all__ = ["BACKENDS", "Backend", "Choice", "ExactTopK", "Ranked", "TopK", "choose", "make_topk"]
