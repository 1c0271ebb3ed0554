"""Names that emitted modules use, which a result or a weight of an architecture cannot have.

Results become variables of the functions of a module, weights become attributes and the names of
stored tensors. A test compares what is listed here with what modules contain.
"""

import keyword
import re
from collections.abc import Collection, Iterable
from itertools import permutations
from os.path import commonprefix

_USED = """
    all_ids all_values before begun best_ids best_values blocks buffer cache caches columns cos
    cos_k cos_q cos_users device drawn exact greedy head how id_rows ids k_cache kept
    kept_probabilities largest last layer local_cos local_cos_k local_cos_q local_rope local_sin
    local_sin_k local_sin_q logprobs mask masked numbered padded page_table positions possible
    powers probabilities prompts qkv ranks rope rope_positions row rows run scaled score
    semaphore sin sin_k sin_q sin_users start sum sums swap tokens total trimmed ttnn user
    v_cache values w whole zip
"""
VARIABLES = frozenset(_USED.split())
"""Parameters, variables and functions, without the numbers that some have at the end."""

TENSORS = frozenset(("rope_cos", "rope_sin", "local_rope_cos", "local_rope_sin"))
"""Stored tensors that are no weights."""

_FUNCTION = re.compile(r"(attention|feed_forward|decoder)(_\d+)?_(decode|prefill).*")
_NUMBER = re.compile(r"(_\d+|_bf16|_bfp8|_bfp4)+$")
_OF_RESULT = re.compile(
    r"(_part|_heads|_users|_gathered|_whole|_unscaled|_rows|_q|_k|_\d+|_bf\w+"
    r"|_queries|_by_user|_keys|_values|_scores|_capped|_masked|_weights|_results)+$"
)
_OF_WEIGHT = re.compile(r"(_rows|_heads|_\d+)+$")

WEIGHTS_AS_ONE = 3
"""As many weights at most are stored as one: q, k and v."""


def why_no_result(name: str, others: Collection[str]) -> str:
    """Why a result cannot have this name beside others, "" if it can."""
    if keyword.iskeyword(name):
        return "a Python keyword"
    stem = _OF_RESULT.sub("", name)
    if stem != name and stem in others:
        return f"a name that emitted modules derive from '{stem}'"
    if _NUMBER.sub("", name) in VARIABLES or _FUNCTION.fullmatch(name):
        return "a name that emitted modules use"
    return ""


def why_no_weight(name: str, groups: Iterable[Collection[str]]) -> str:
    """Why a weight cannot have this name, "" if it can. `groups` are the names of weights that may
    be stored as one, by precision group.
    """
    if keyword.iskeyword(name):
        return "a Python keyword"
    if name in TENSORS:
        return "the name of a tensor that emitted modules store"
    for group in groups:
        stem = _OF_WEIGHT.sub("", name)
        if stem != name and stem in group:
            return f"a name that emitted modules derive from '{stem}'"
        others = [each for each in group if each != name]
        for count in range(2, WEIGHTS_AS_ONE + 1):
            for joined in permutations(others, count):
                if stored_name(joined) == name:
                    return f"the name under which {', '.join(joined)} are stored as one"
    return ""


def free_name(name: str, taken: Collection[str]) -> str:
    """The nearest name that is free."""
    wanted = f"{name}_out"
    return wanted if wanted not in taken else free_name(wanted, taken)


def stored_name(weights: tuple[str, ...]) -> str:
    """The name of weights that are stored as one: wq, wk, wv -> wqkv."""
    prefix = commonprefix(weights) if len(weights) > 1 else ""
    return prefix + "".join(name[len(prefix) :] for name in weights)
