"""Every field of a configuration, with its type, its default and a line of help.

A file in configs/ starts from `get_config()` and sets what its experiment changes. Defaults are the
constants of the published method (arXiv 2412.15156 and its code) on the embedded models, unless the
help says otherwise. `mini:NAME` names files that come with the package. None means that a field is
unset.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from pav_jax.booster.config import BoosterConfig
from pav_jax.budget_options import BudgetConfig
from pav_jax.candidates.options import RANKINGS
from pav_jax.config_fields import config_dict, field_types, option
from pav_jax.endpoints.options import EndpointLimits
from pav_jax.evolve.config import EvolveConfig
from pav_jax.evolve.options import ChatOptions, LexiconOptions, LocalOptions
from pav_jax.report.config import ReportConfig
from pav_jax.train.config import DPOConfig, GRPOConfig, SFTConfig
from pav_jax.video.generation_config import GenerationConfig

MAX_SEED = 2**31 - 1
MAX_RESAMPLES = 10_000_000  # of a bootstrap; more would take hours
MAX_CHECK_TOKENS = 2**20  # of a row that `pav check` compiles a program for
MAX_CHECK_EXAMPLES = 10**9
# fields of GenerationConfig that belong to a checkpoint rather than to an experiment
FIELDS_OF_CHECKPOINTS = ("zero_uncond", "cache_ratios", "fps", "batch_size")


@dataclasses.dataclass
class MeshConfig:
    """Sizes of the mesh axes (parallel/mesh.py). One may be -1: all remaining devices."""

    data: int = option(1, "data-parallel groups; the axis that crosses slices", minimum=-1)
    fsdp: int = option(1, "devices that parameters and batches are sharded over", minimum=-1)
    tensor: int = option(
        1, "devices that heads and feed-forward units are sharded over", minimum=-1
    )
    sequence: int = option(1, "devices that tokens are sharded over", minimum=-1)
    expert: int = option(
        1, "devices that experts of a mixture of experts, and batches, are sharded over", minimum=-1
    )


@dataclasses.dataclass
class EndpointConfig(EndpointLimits):
    """An HTTP generator (video/http_generator.py)."""

    name: str | None = option(None, "identifies the endpoint in record keys; None: its address")
    api_key_env: str = option("PAV_GENERATOR_API_KEY", "environment variable that holds the key")


@dataclasses.dataclass
class _GeneratorConfig:
    """The video generator. The fields of GenerationConfig are added below, all unset."""

    path: str = option(
        "mini:generator",
        "a diffusers folder or Hub id of a JAX family; diffusers:FOLDER-OR-ID; http(s)://ENDPOINT",
    )
    dtype: str = option("float32", "of the weights", choices=("float32", "bfloat16", "float16"))
    batch_size: int = option(
        16, "videos in one compiled program; the last batch is padded", minimum=1
    )
    scheduler: str | None = option(
        None, "diffusers class name that replaces the folder's scheduler"
    )
    flow_shift: float | None = option(
        None, "shift of the noise levels of a Wan's scheduler; None: the folder's", minimum=0
    )
    mesh: MeshConfig = option(
        MeshConfig, "of one host; all axes 1: videos are split over the host's devices"
    )
    sequence_attention: str = option(
        "auto", "attention over the sequence axis", choices=("auto", "ring", "ulysses")
    )
    swap_experts: bool = option(
        False, "of a Wan with two experts: one at a time on the devices, the other on the host"
    )
    encoder_vae_devices: int = option(
        0,
        "number of the host's devices reserved for text encoder and VAE beside the denoiser",
        minimum=0,
    )
    options: Mapping[str, Any] = option(
        dict, "further arguments of a diffusers call or an HTTP request"
    )
    endpoint: EndpointConfig = option(EndpointConfig, "of an HTTP generator")


def _optional_types(section: type) -> dict[str, Any]:
    """Field name -> the field's type or None."""
    return {name: kind | None for name, (kind, _) in field_types(section).items()}


GENERATION_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(GenerationConfig)
    if field.name not in FIELDS_OF_CHECKPOINTS
)
GeneratorConfig = dataclasses.make_dataclass(
    "GeneratorConfig",
    [
        (
            name,
            optional,
            option(None, **GenerationConfig.__dataclass_fields__[name].metadata),
        )
        for name, optional in _optional_types(GenerationConfig).items()
        if name in GENERATION_FIELDS
    ],
    bases=(_GeneratorConfig,),
)


def _mini_rewards() -> dict[str, dict[str, Any]]:
    clip = {"path": "mini:clip", "frames": 4, "layout": "sheet"}
    return {"aesthetic": clip, "clip_alignment": clip, "motion": {}, "faithfulness": {}}


@dataclasses.dataclass
class RewardsConfig:
    """The reward suite. FAITH is scored with the others, but never enters the weighted sum."""

    entries: Mapping[str, Any] = option(
        _mini_rewards,
        "name -> options; the name is the kind unless `kind` gives it, such as package.module:Name;"
        " judges over an endpoint are held out unless a weight or bound names one of their scores",
    )
    weights: Mapping[str, float] = option(
        lambda: {"AES": 1.0, "TVA": 1.0, "TC": 1.0, "DD": 1.0}, "score name -> weight in overall"
    )
    thresholds: Mapping[str, float] = option(
        dict, "selection thresholds: scores of a selected or chosen rewrite lie above them"
    )
    constraints: Mapping[str, float] = option(
        lambda: {"FAITH": 0.7}, "score name -> minimum score of a feasible rewrite"
    )
    skip: tuple[str, ...] = option((), 'scores to leave out; for images ("TC", "DD", "FC")')
    held_out: tuple[Any, ...] = option(
        (), "entries dict(name=KIND, ...) of held-out evaluators (never used for selection)"
    )


@dataclasses.dataclass
class RewriterConfig:
    """The language model that rewrites prompts, before any training."""

    path: str = option("mini:rewriter", "a Hugging Face folder, a Hub id or a .gguf file")
    dtype: str = option("float32", "of the parameters", choices=("float32", "bfloat16"))
    attention: str = option(
        "auto", "kernel; auto: by platform", choices=("auto", "plain", "splash", "cudnn")
    )
    template: str | None = option(
        None,
        "chat template file; auto: the shipped one for the model; model: the checkpoint's own;"
        " None: its own if that has an instruction to rewrite, else the shipped one",
    )
    batch_size: int = option(
        16,
        "answers in one compiled program; rounded up to a multiple of data * fsdp * expert",
        minimum=1,
    )
    temperature: float = option(
        1.0, "of the untuned rewriter and its boosters in evaluation", minimum=0
    )
    top_k: int = option(50, "0: off", minimum=0)
    top_p: float = option(1.0, "nucleus mass", minimum=0, maximum=1)
    max_new_tokens: int = option(250, "tokens of a rewrite", minimum=1)


def _proposer(kind: str, share: float, first_round: int, options: Any) -> dict[str, Any]:
    """An entry: when the proposer works, and the options of its kind (evolve/options.py)."""
    values = {
        name: placeholder(str) if value is None else value for name, value in vars(options).items()
    }
    rounds = {"first_round": first_round, "last_round": placeholder(int)}  # None: the last
    return {"kind": kind, "share": share, **rounds, **values}


def _proposers() -> dict[str, dict[str, Any]]:
    """Name -> entry. `share` is the part of each prompt's new rewrites; 0 switches an entry off."""
    return {
        "local": _proposer("local", 1.0, 1, LocalOptions()),
        "lexicon": _proposer("lexicon", 0.0, 2, LexiconOptions()),  # learns from the pool
        "chat": _proposer("chat", 0.0, 1, ChatOptions()),
    }


@dataclasses.dataclass
class SelectConfig:
    """From the pool to SFT pairs."""

    weights: Mapping[str, float] | None = option(
        None, "of overall; None: evolve.weights, then rewards.weights"
    )
    ranking: str = option("sum", "which rewrite is the best", choices=RANKINGS)
    thresholds: Mapping[str, float] | None = option(None, "None: rewards.thresholds; {}: none")
    constraints: Mapping[str, float] | None = option(None, "None: rewards.constraints; {}: none")
    min_gain: float = option(0.0, "minimum gain in overall over the user's own prompt")
    max_words: int = option(130, "of a selected rewrite", minimum=1)


@dataclasses.dataclass
class PreferConfig:
    """Sampling rewrites and pairing them. Source: dpo/inference.py and dpo/filter.py."""

    prompts: str = option("mini:prompts/prefer.txt", "file with one prompt per line")
    max_prompts: int | None = option(None, "prompts per round; None: an even share", minimum=1)
    num_return_sequences: int = option(5, "rewrites sampled per prompt", minimum=1)
    temperature: float = option(1.0, "of sampling", minimum=0)
    top_k: int = option(50, "0: off", minimum=0)
    top_p: float = option(1.0, "nucleus mass", minimum=0, maximum=1)
    max_new_tokens: int = option(250, "tokens of a rewrite", minimum=1)
    sampling_batch_size: int = option(32, "prompts per call of the rewriter", minimum=1)
    keep_videos: str = option("none", "which videos are saved", choices=("none", "all"))
    weights: Mapping[str, float] | None = option(None, "of overall; None: rewards.weights")
    ranking: str = option("sum", "which rewrite is better", choices=RANKINGS)
    thresholds: Mapping[str, float] | None = option(None, "None: rewards.thresholds; {}: none")
    constraints: Mapping[str, float] | None = option(None, "None: rewards.constraints; {}: none")
    feasible_first: bool = option(
        False, "feasible rewrites rank first, unless an infeasible one is better by the margin"
    )
    margin: float = option(
        1.4,
        "minimum gap of a pair, in overall or, for ranking=average_rank, in mean rank",
        minimum=0,
    )
    max_words: int = option(130, "of a chosen rewrite", minimum=1)
    max_length_difference: float | None = option(
        None, "largest relative difference of a pair's word counts; None: any", minimum=0
    )


def _mini_prompt_sets() -> dict[str, str]:
    return {name: f"mini:prompts/{name}.jsonl" for name in ("in_domain", "held_out")}


@dataclasses.dataclass
class EvaluateConfig:
    """Systems and controls on the evaluation prompts."""

    prompts: Mapping[str, str] = option(
        _mini_prompt_sets, "set -> .txt, one prompt per line, or .jsonl of `prompt` and `oracle`"
    )
    max_prompts: int | None = option(
        None, "use only this many of the first prompts of each set; None: all", minimum=1
    )
    systems: tuple[str, ...] = option(
        ("original", "base", "sft", "dpo_1", "dpo_2"), "stages and chat proposers to compare"
    )
    rewrite_files: Mapping[str, str] = option(
        dict, "further systems: name -> booster folder, or .jsonl of `prompt` and `refined`"
    )
    controls: bool = option(True, "also measure suffix, shuffled and oracle")
    seeds: tuple[int, ...] = option(
        (0, 1), "of the generator, the same for all systems", minimum=0, maximum=MAX_SEED
    )
    num_suffix_prompts: int = option(24, "training prompts that choose the best suffix", minimum=0)
    num_resamples: int = option(10_000, "of the bootstrap", minimum=1, maximum=MAX_RESAMPLES)
    save_videos: bool = option(True, "write videos/")


@dataclasses.dataclass
class TrustConfig:
    """How far each reward can be trusted. By default 512 videos, 32 of which are corrupted."""

    prompts: str | None = option(None, "a .txt or .jsonl file; None: evolve.prompts")
    max_prompts: int | None = option(
        128, "use only this many of the first prompts; None: all", minimum=1
    )
    seeds: tuple[int, ...] = option(
        (0, 1, 2, 3), "of the generator, at least two", minimum=0, maximum=MAX_SEED
    )
    num_corrupted: int = option(32, "videos of the first seed that are corrupted", minimum=0)
    severities: tuple[int, ...] = option(
        (0, 1, 2, 3, 4), "of corruption; 0: the video itself", minimum=0
    )
    expected_sensitivities: Mapping[str, Any] = option(
        dict,
        "score -> corruption families it should notice, of picture, content, consistency, motion"
        " and text; of other scores: those of trust/verdict.py, else picture and content",
    )
    score_ranges: Mapping[str, Any] = option(
        dict, "score -> (lowest, highest); None: the range that was observed"
    )
    num_resamples: int = option(10_000, "of the bootstrap", minimum=1, maximum=MAX_RESAMPLES)


@dataclasses.dataclass
class CalibrateConfig:
    """Thresholds and weights that fit a scored pool."""

    quantile: float = option(0.6, "of the pool's scores: the threshold", minimum=0, maximum=1)
    weights: Mapping[str, float] | None = option(
        None, "whose proportions are kept; None: evolve.weights, then rewards.weights"
    )
    published_deviations: Mapping[str, float] = option(
        dict,
        "score -> its standard deviation where the weights come from; 1 where not given",
        above=0,
    )


@dataclasses.dataclass
class CheckConfig:
    """What `pav check` compiles and assumes."""

    topology: str | None = option(None, "TPU generation and chips, such as v5e:4x4")
    num_slices: int = option(1, "slices, over which the data axis goes", minimum=1)
    programs: tuple[str, ...] = option(
        ("sft", "dpo", "sample", "generator", "rewards"), "programs to compile"
    )
    num_examples: int = option(
        5000, "SFT pairs, preferences and prompts", minimum=1, maximum=MAX_CHECK_EXAMPLES
    )
    row_length: int | None = option(
        None, "tokens of a training row; None: the longest", minimum=1, maximum=MAX_CHECK_TOKENS
    )
    prompt_length: int = option(
        128, "tokens of a prompt in the chat template", minimum=1, maximum=MAX_CHECK_TOKENS
    )


@dataclasses.dataclass
class Config:
    """A whole configuration."""

    seed: int = option(0, "of everything that is random", minimum=0, maximum=MAX_SEED)
    rounds: int = option(2, "of prefer and dpo", minimum=0)
    mesh: MeshConfig = option(MeshConfig, "of the rewriter")
    generator: _GeneratorConfig = option(GeneratorConfig, "the video generator")
    rewards: RewardsConfig = option(RewardsConfig, "the reward suite")
    rewriter: RewriterConfig = option(RewriterConfig, "the language model before training")
    booster: BoosterConfig = option(BoosterConfig, "how rewrites are guarded")
    proposers: Mapping[str, Any] = option(
        _proposers, "proposers of rewrites during evolution, by name"
    )
    evolve: EvolveConfig = option(EvolveConfig, "search for good rewrites")
    select: SelectConfig = option(SelectConfig, "from the pool to SFT pairs")
    sft: SFTConfig = option(SFTConfig, "supervised fine-tuning")
    prefer: PreferConfig = option(PreferConfig, "preference pairs")
    dpo: DPOConfig = option(DPOConfig, "direct preference optimization")
    grpo: GRPOConfig = option(GRPOConfig, "group relative policy optimization, not part of `run`")
    evaluate: EvaluateConfig = option(EvaluateConfig, "systems and controls")
    trust: TrustConfig = option(TrustConfig, "trust in the rewards, not part of `run`")
    calibrate: CalibrateConfig = option(CalibrateConfig, "fit thresholds, not part of `run`")
    report: ReportConfig = option(ReportConfig, "the HTML report")
    budget: BudgetConfig = option(BudgetConfig, "limits of videos, hours and money")
    check: CheckConfig = option(CheckConfig, "compile for a TPU, not part of `run`")


def get_config() -> ConfigDict:
    """A new configuration with all defaults. Fields can be changed, not added."""
    return config_dict(Config()).lock()
