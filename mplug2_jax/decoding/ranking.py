"""Answer ranking: which of a list of candidate answers fits a question best.

Scoring every candidate in full costs a decoder pass each. As upstream, the
probability of the candidates' first tokens picks k of them, and only these are scored
in full.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from mplug2_jax.decoding.interface import log_probabilities
from mplug2_jax.types import Tokens


@flax.struct.dataclass
class RankOutput:
    """The k chosen candidates of every sample, best first.

    Attributes:
      indices: rows of the candidate list.
      probabilities: softmax of the scores over the k; 0 for a row of padding.
      log_probs: log-probability of the whole candidate, its end included; -inf for a
        row of padding.
    """

    indices: Int[Array, "B k"]
    probabilities: Float[Array, "B k"]
    log_probs: Float[Array, "B k"]


def rank_candidates(
    first_logits: Float[Array, "B V"],
    candidates: Tokens,
    token_log_probs: Callable[[Tokens], Float[Array, "B*k L-1"]],
    k: int,
) -> RankOutput:
    """Ranks A candidates for each sample (upstream's rule; k at most A are returned).

    A score is the log-probability of all tokens, plus that of the first once more. Of
    candidates with the same first token the shorter is picked first.

    Args:
      first_logits: the decoder's output after the start token alone.
      candidates: A rows, start token first; rows whose mask is zero are padding.
      token_log_probs: log p of every token after the first, for k consecutive rows a
        sample (see `next_token_log_probs`); what it returns on padding is ignored.
      k: candidates scored in full.
    """
    if k < 1 or candidates.values.shape[1] < 2:
        raise ValueError(
            f"Ranking needs k >= 1 and candidates of a start token and at least one "
            f"more, got k={k} and rows of {candidates.values.shape[1]} tokens."
        )
    # top_k takes the earlier of equals. Candidates with the same first token are equal,
    # and the shorter is likelier as a whole; upstream leaves the choice to torch.topk.
    by_length = jnp.argsort(candidates.mask.sum(axis=1), stable=True)
    shortest_first = jax.tree.map(lambda leaf: jnp.asarray(leaf)[by_length], candidates)
    first = log_probabilities(first_logits)[:, shortest_first.values[:, 1]]  # B A
    first = jnp.where(shortest_first.mask[:, 1] > 0, first, -jnp.inf)
    first, chosen = lax.top_k(first, min(k, first.shape[1]))  # B k

    rows = jax.tree.map(lambda leaf: leaf[chosen.reshape(-1)], shortest_first)
    log_probs = jnp.where(rows.mask[:, 1:] > 0, token_log_probs(rows), 0.0).sum(-1)
    log_probs = jnp.where(jnp.isneginf(first), -jnp.inf, log_probs.reshape(first.shape))

    scores, order = lax.top_k(first + log_probs, first.shape[1])
    return RankOutput(
        indices=jnp.take_along_axis(by_length[chosen], order, axis=1),
        probabilities=jax.nn.softmax(scores),
        log_probs=jnp.take_along_axis(log_probs, order, axis=1),
    )


def next_token_log_probs(
    logits: Float[Array, "R L V"], ids: Int[Array, "R L"]
) -> Float[Array, "R L-1"]:
    """Log-probability of every token but the first, given those before it."""
    log_p = log_probabilities(logits[:, :-1])
    return jnp.take_along_axis(log_p, ids[:, 1:, None], axis=-1)[..., 0]
