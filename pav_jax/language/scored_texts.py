"""Texts with the log-probabilities of their tokens, known from drawing them."""

from collections.abc import Sequence

from pav_jax.language import chat
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.samples import Sample
from pav_jax.language.sampling import Sampling


def generate_scored(
    lm: LanguageModel,
    chats: Sequence[chat.Chat],
    settings: Sampling,
    num_return_sequences: int = 1,
    seed: int | Sequence[int] = 0,
    adapter_names: str | Sequence[str] | None = None,
) -> tuple[list[list[str]], list[list[float]]]:
    """Generate answers as `LanguageModel.generate` does, with their log-probabilities.

    Returns:
      The answers, and for each the mean log-probability of its tokens without the one that ends it,
      in nats, by the model itself: without temperature, top-k, top-p and repetition penalty.
    """
    names = lm.adapters.check_rows(adapter_names, len(chats))
    prompt_ids = lm.adapters.encode(lm.tokenizer, chats, names)
    means: dict[Sample, float] = {}
    answers = lm.generate_ids(
        prompt_ids, settings, num_return_sequences, seed, adapter_names, means
    )
    texts = [
        chat.decode_answers(lm.tokenizer, ids, group)
        for ids, group in zip(prompt_ids, answers, strict=True)
    ]
    by_place = {(sample.prompt, sample.number): mean for sample, mean in means.items()}
    numbers = range(num_return_sequences)
    return texts, [[by_place[i, number] for number in numbers] for i in range(len(chats))]
