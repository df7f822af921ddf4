"""Log-probabilities of the model in training.

B examples, T tokens.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, Float

from pav_jax.language.log_probs import log_probs
from pav_jax.train.config import TrainingConfig
from pav_jax.train.state import TrainState
from pav_jax.train.state import dropout_key as adapter_dropout_key


def trained_log_probs(
    model: Any,
    state: TrainState,
    trained: Any,
    rows: Mapping[str, Any],
    fields: TrainingConfig,
    key: jax.Array,
    temperature: float = 1.0,
) -> Float[Array, "B T"]:
    """`log_probs` of the model in training, as a loss needs them.

    Args:
      state: its frozen collections are used.
      trained: the collections with respect to which the loss is differentiated.
      rows: "ids", "answer" and, for packed rows, "segments".
      key: for the adapter's dropout.
      temperature: logits are divided by it.
    """
    return log_probs(
        model,
        {**state.frozen, **trained},
        rows["ids"],
        fields.loss_chunk_size,
        adapter_dropout_key(fields, key),
        temperature,
        segments_BxT=rows.get("segments"),
        mask_BxT=rows["answer"],
        head_is_frozen=not fields.full_finetuning,
    )
