"""The kinds of rewards that a configuration can name, and how an entry becomes a reward."""

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pav_jax.config_fields import parse_options
from pav_jax.errors import BadInput
from pav_jax.plugins import import_plugin, is_plugin
from pav_jax.rewards import options
from pav_jax.rewards.reward import Reward, as_reward


@dataclasses.dataclass(frozen=True)
class Kind:
    """A built-in kind: where its class is, and what is known of it before it is loaded.

    Attributes:
      location: module and class.
      names: of its scores.
      options: the dataclass of its options.
      reads_video: whether its scores depend on the video.
      held_out_by_default: whether an entry of `rewards.entries` is a held-out evaluator unless the
        configuration names one of its scores. True for judges over an endpoint, whose answers cost
        money or may change with the model behind it.
    """

    location: str
    names: tuple[str, ...]
    options: type
    reads_video: bool = True
    held_out_by_default: bool = False

    def load(self) -> type[Reward]:
        """Import the class."""
        module, _, name = self.location.partition(":")
        return getattr(importlib.import_module(f"pav_jax.rewards.{module}"), name)


KINDS = {
    "aesthetic": Kind("aesthetic:Aesthetic", ("AES",), options.AestheticOptions),
    "clip_alignment": Kind("clip_alignment:ClipAlignment", ("TVA",), options.ClipAlignmentOptions),
    "clip_consistency": Kind(
        "clip_consistency:ClipConsistency", ("CFC",), options.ClipConsistencyOptions
    ),
    "faithfulness": Kind(
        "faithfulness:Faithfulness", ("FAITH",), options.FaithfulnessOptions, reads_video=False
    ),
    "hpsv3": Kind("hpsv3:HPSv3", ("HPSV3",), options.HPSv3Options),
    "length": Kind("length:Length", ("LENGTH",), options.LengthOptions, reads_video=False),
    "likelihood": Kind(
        "likelihood:Likelihood", ("LIKELIHOOD",), options.LikelihoodOptions, reads_video=False
    ),
    "lpips": Kind("lpips:LPIPSConsistency", ("PC",), options.LPIPSConsistencyOptions),
    "motion": Kind("motion:Motion", ("TC", "DD"), options.MotionOptions),
    "mps": Kind("mps:MPS", ("MPS",), options.MPSOptions),
    "text_rubric": Kind(
        "text_rubric:TextRubric",
        ("RUBRIC_SF", "RUBRIC_IC", "RUBRIC_DQ"),
        options.TextRubricOptions,
        reads_video=False,
        held_out_by_default=True,
    ),
    "videoreward": Kind(
        "videoreward:VideoReward", ("VR_VQ", "VR_MQ", "VR_TA"), options.VideoRewardOptions
    ),
    "videoscore": Kind(
        "videoscore:VideoScore", ("VQ", "TC", "DD", "TVA", "FC"), options.VideoScoreOptions
    ),
    "videoscore_qwen2_vl": Kind(
        "videoscore_qwen2_vl:VideoScoreQwen2VL",
        ("VQ", "TC", "DD", "TVA", "FC"),
        options.VideoScoreQwen2VLOptions,
    ),
    "vision_questions": Kind(
        "vision_questions:VisionQuestions",
        ("QA",),
        options.VisionQuestionsOptions,
        held_out_by_default=True,
    ),
    "vqascore": Kind(
        "vqascore:VQAScore", ("VQA",), options.VQAScoreOptions, held_out_by_default=True
    ),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of a configuration, checked.

    Attributes:
      names: of its scores; None for a plug-in, which is not imported yet.
      values: the options by name.
      parsed: the options dataclass; None for a plug-in.
    """

    kind: str
    names: tuple[str, ...] | None
    values: Mapping[str, Any]
    parsed: Any
    path: str

    @property
    def reads_video(self) -> bool:
        """Whether its scores depend on the video; a plug-in is imported.

        Raises:
          BadInput: the plug-in cannot be imported.
        """
        if self.kind in KINDS:
            return KINDS[self.kind].reads_video
        return getattr(import_plugin(self.kind, self.path), "reads_video", True)

    def build(self) -> Reward:
        """Load the reward.

        Raises:
          BadInput: a plug-in or checkpoint that cannot be used.
        """
        if self.kind in KINDS:
            return KINDS[self.kind].load().from_options(self.parsed)
        target = import_plugin(self.kind, self.path)
        if isinstance(target, type) and Reward not in target.__mro__:
            raise BadInput(
                f"{self.path}: the class is not a reward; derive it from pav_jax.Reward",
                source="configuration",
                field=self.path,
            )
        if inspect.isabstract(target):
            raise BadInput(
                f"{self.path}: the class does not define score(videos, prompts, refined); add it",
                source="configuration",
                field=self.path,
            )
        if not isinstance(target, type):
            if self.values:
                raise BadInput(
                    f"{self.path}: a function takes no options; leave them out",
                    source="configuration",
                    field=self.path,
                )
            return as_reward(target)
        if target.options is None:
            return target(**self.values)
        return target.from_options(parse_options(target.options, self.values, self.path))


def reads_video(reward: Reward) -> bool:
    """Whether a reward's scores depend on the video: as KINDS says, or else the reward itself."""
    for kind in KINDS.values():
        if kind.options is reward.options:
            return kind.reads_video
    return reward.reads_video


def parse_entries(entries: Any, field: str) -> list[Entry]:
    """Check the entries of a configuration's `rewards.<field>` without loading anything.

    Args:
      entries: kind -> options; or any name -> options with a `kind`, as for plug-ins, whose
        `package.module:Name` cannot be a key of a configuration; or a sequence of options with the
        kind as `name`.

    Raises:
      BadInput: an unknown kind or option, a missing one, or one of another type.
    """
    path = f"rewards.{field}"
    if isinstance(entries, Mapping):
        listed = [_with_kind(name, options) for name, options in entries.items()]
    elif isinstance(entries, Sequence) and not isinstance(entries, str):
        listed = [_named(entry, path) for entry in entries]
    else:
        raise BadInput(
            f"{path}={entries!r}: give a mapping of kinds to options",
            source="configuration",
            field=path,
        )
    return [_parse(kind, {} if options is None else options, path) for kind, options in listed]


def _with_kind(name: str, options: Any) -> tuple[str, Any]:
    if not isinstance(options, Mapping) or "kind" not in options:
        return name, options
    values = dict(options)
    return str(values.pop("kind")), values


def _named(entry: Any, path: str) -> tuple[str, Any]:
    if not isinstance(entry, Mapping) or "name" not in entry:
        raise BadInput(
            f"{path}: {entry!r} is not an entry; write {{'name': KIND, ...}}",
            source="configuration",
            field=path,
        )
    options = dict(entry)
    return str(options.pop("name")), options


def _parse(kind: str, values: Any, path: str) -> Entry:
    if is_plugin(kind):
        if not isinstance(values, Mapping):
            raise BadInput(
                f"{path}.{kind}={values!r}: give a mapping of options, such as {{}}",
                source="configuration",
                field=f"{path}.{kind}",
            )
        return Entry(kind, None, dict(values), None, f"{path}.{kind}")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise BadInput(
            f"{path}: there is no reward {kind!r}; {hint}The kinds are {', '.join(KINDS)}, or"
            " package.module:Name",
            source="configuration",
            field=path,
        )
    parsed = parse_options(KINDS[kind].options, values, f"{path}.{kind}")
    return Entry(kind, KINDS[kind].names, dict(values), parsed, f"{path}.{kind}")
