"""The process that renders chat templates: a script that `template_renderer` starts.

It reads one JSON object a line, {template, variables}, and answers with one, {text} or {error}. A
template can at most end this process: its memory and the time of each request are limited by the
operating system, which also holds within one operation of the interpreter, such as `"a" * 10**10`.

Names that templates may use are those of transformers' `apply_chat_template`. Only jinja2 is
imported: transformers would take seconds.
"""

import contextlib
import datetime
import functools
import json
import os
import signal
import sys
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

MAX_SECONDS = 2.0  # of computation for one text; chat templates take milliseconds
MAX_MEMORY = 512 * 2**20  # bytes of address space
MAX_CHARACTERS = 1_000_000  # of a text


class GenerationBlock(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}`, which marks answers and changes no text."""

    tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

    def parse(self, parser: Any) -> Any:
        """The nodes between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)


@functools.lru_cache(maxsize=16)
def compile_template(source: str) -> jinja2.Template:
    """A template in the sandbox: no files, no attributes of Python, no changes to its variables."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationBlock, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def render(request: dict[str, Any]) -> dict[str, str]:
    """{"text": ...}, or {"error": ...} in a few words."""
    try:
        parts = []
        size = 0
        for part in compile_template(request["template"]).generate(**request["variables"]):
            parts.append(part)
            size += len(part)
            if size > MAX_CHARACTERS:
                return {"error": f"its text has more than {MAX_CHARACTERS} characters"}
        return {"text": "".join(parts)}
    except MemoryError:
        return {"error": "it takes too much memory"}
    except RecursionError:
        return {"error": "it calls itself without end"}
    except jinja2.TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {error.message}"}
    except Exception as error:  # a template can raise whatever Python's operators raise
        return {"error": str(error)[:500] or type(error).__name__}


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # macOS has no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes us
    _limit_memory()
    for line in sys.stdin.buffer:
        # SIGPROF ends the process, whatever it is doing
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        answer = render(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
