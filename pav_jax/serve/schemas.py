"""The bodies of requests."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pav_jax.language.sampling import CANDIDATES

MAX_MESSAGES = 1000
MAX_COMPLETION_PROMPTS = 64
MAX_STOPS = 4  # as in OpenAI's API
MAX_KEPT_TERMS = 64
KeptTerm = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
StopText = Annotated[str, Field(min_length=1, max_length=200)]


class SamplingFields(BaseModel):
    """How tokens are drawn; what is absent has the model's own default."""

    model: str | None = Field(None, description="one of /v1/models; default: the first")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy decoding")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, le=CANDIDATES, description="not in OpenAI's API")
    repetition_penalty: float | None = Field(
        None, gt=0, le=10, description="1 is off; not in OpenAI's API"
    )
    max_tokens: int | None = Field(None, ge=1, description="of one answer")


class GuardFields(BaseModel):
    """What a rewrite must keep; what is absent has the server's own default."""

    model_config = ConfigDict(extra="forbid")
    mode: Literal["off", "auto", "on"] | None = Field(
        None, description="auto and on compare rewrites with the prompt; default: the server's"
    )
    keep: Annotated[list[KeptTerm], Field(max_length=MAX_KEPT_TERMS)] | None = Field(
        None, description="terms of the prompt that a rewrite must contain as they are written"
    )
    fidelity: float | None = Field(None, ge=0, le=1, description="least share of the prompt")
    max_words: int | None = Field(None, ge=3, description="of the rewrite")
    language: Literal["en", "any"] | None = Field(
        None, description="any: also rewrite prompts that are not English, unchecked"
    )

    def guard_fields(self) -> dict[str, Any]:
        """The fields of the guard that the body has."""
        return {name: getattr(self, name) for name in GuardFields.model_fields}


class RefineBody(SamplingFields, GuardFields):
    """The body of /refine."""

    model_config = ConfigDict(extra="forbid")
    prompt: str = Field(description="what the user typed")
    seed: int = Field(0, ge=-(2**63), lt=2**63, description="same prompt and seed, same rewrite")


class PreviewBody(BaseModel):
    """The body of /preview."""

    model_config = ConfigDict(extra="forbid")
    prompt: str = Field(description="what the generator reads, as it is", pattern=r"\S")
    seed: int = Field(0, ge=0, lt=2**31)


class StreamOptions(BaseModel):
    """What a stream tells beside the texts."""

    include_usage: bool = False


class OpenAIFields(SamplingFields):
    """What both of OpenAI's routes take.

    Fields that are not listed are ignored, except those of `request_reader.UNSUPPORTED`.
    """

    model_config = ConfigDict(extra="allow")
    n: int | None = Field(None, ge=1, description="answers")
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    guard: GuardFields | None = Field(
        None, description="of rewrites; not in OpenAI's API: extra_body of its client"
    )


class TextPart(BaseModel):
    """A part of a message; only texts are understood."""

    type: str
    text: str | None = None


class Message(BaseModel):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None


class ResponseFormat(BaseModel):
    """The form of an answer; only texts are written."""

    model_config = ConfigDict(extra="allow")
    type: str


class ChatBody(OpenAIFields):
    """The body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, description="goes before max_tokens")
    response_format: ResponseFormat | None = None


class CompletionBody(OpenAIFields):
    """The body of /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_COMPLETION_PROMPTS)]
