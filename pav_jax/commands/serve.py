"""`pav serve`: a booster as an HTTP server."""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pav_jax.commands.arguments import (
    INT8_CHOICES,
    add_int8,
    require_at_least,
    require_at_most,
)
from pav_jax.commands.guard_options import add_guard, guard_fields
from pav_jax.commands.style_options import add_style, check_style
from pav_jax.errors import BadInput

if TYPE_CHECKING:
    from pav_jax.serve.backend import Backend
    from pav_jax.serve.preview import Previewer

API_KEY_VARIABLE = "PAV_API_KEY"
LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")
DEFAULT_PORT = 8000
RANGES = {
    "port": (0, 65535),
    "batch_size": (1, 4096),
    "max_queue": (0, 10_000),
    "timeout": (1, 86_400),
    "max_tokens": (1, 1_000_000),
    "max_n": (1, 1000),
}


def add(commands: Any) -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "serve",
        help="answer HTTP requests with a booster",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Serves a booster: /refine rewrites a prompt, and clients of OpenAI's API find it under"
            " /v1.\nRequests share batches, and a rewrite depends only on its prompt, seed and"
            " settings. /docs is a page\nof all routes, /metrics has counters for Prometheus."
            " SIGTERM and Ctrl+C finish what runs.\nNeeds the extra: pip install 'pav-jax[serve]'."
        ),
        epilog=f"""\
examples:
  pav serve                                                 the model of pav refine
  pav serve --model=runs/mini/round_2/booster --port=9000
  pav serve --model=smollm2 --adapter=wan=adapters/wan --adapter=hunyuan=adapters/hunyuan
  pav serve --upstream=http://127.0.0.1:8080                a model that llama.cpp or vLLM serves
  {API_KEY_VARIABLE}=... pav serve --host=0.0.0.0              for other machines, with a key

ask it:
  curl localhost:{DEFAULT_PORT}/refine --json '{{"prompt": "a dog runs"}}'

docs/guides/serve.md has all routes, fields and limits.""",
    )
    command.add_argument(
        "--model",
        help=(
            "a booster folder, a Hub id, a .gguf file, mini:booster, or smollm2; default: smollm2"
            " with the adapters that come with the package. With --upstream: the name of a model"
            " there; default: all that it lists"
        ),
    )
    add_style(command)
    command.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help=(
            "a PEFT LoRA folder, a Hub id, or a shipped adapter (pav adapters list), on top of the"
            " model; clients call it by NAME. May be repeated; requests for different adapters"
            " share batches. Without --model, on the base model that they name"
        ),
    )
    command.add_argument(
        "--upstream",
        metavar="ADDRESS",
        help=(
            "an OpenAI-compatible server that has the model; its key is read from the environment"
            " variable PAV_UPSTREAM_API_KEY"
        ),
    )
    command.add_argument(
        "--template",
        help="chat template: a file, auto, or model; see pav refine --help",
    )
    command.add_argument(
        "--generator",
        metavar="PATH",
        help=(
            "a video generator, as in pav generate --model: the page shows videos of prompt and"
            " rewrite side by side, and /preview makes one"
        ),
    )
    command.add_argument("--name", help="what clients call the model (default: its own name)")
    command.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    command.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help=f"default {DEFAULT_PORT}; 0: any free one"
    )
    add_int8(command)
    add_guard(command, "what a rewrite must keep, unless a request says otherwise")
    _add_limits(command)
    command.set_defaults(handler=run, parser=command)


def _add_limits(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("limits")
    for name, kind, default, text in (
        ("--batch-size", int, 4, "answers written at once; more is slower for a single one"),
        ("--max-queue", int, 64, "requests that may wait; more get status 429"),
        ("--timeout", float, 120.0, "seconds for one request, then status 504"),
        ("--max-tokens", int, 1024, "the longest answer that a request may ask for, in tokens"),
        ("--max-n", int, 16, "the most answers that a request may ask for"),
    ):
        group.add_argument(name, type=kind, default=default, help=f"{text} (default {default})")


def run(args: argparse.Namespace) -> None:
    """Serve until a signal."""
    for name, (minimum, maximum) in RANGES.items():
        option = f"--{name.replace('_', '-')}"
        require_at_least(minimum, option, getattr(args, name))
        require_at_most(maximum, option, getattr(args, name))
    guard = guard_fields(args)
    try:
        from pav_jax.serve import app, server
    except ModuleNotFoundError as error:
        raise BadInput(
            f"this needs the package {error.name}: pip install 'pav-jax[serve]'", source="serve"
        ) from None
    from pav_jax.endpoints.addresses import api_key
    from pav_jax.serve.options import ServeLimits

    key = api_key(API_KEY_VARIABLE, API_KEY_VARIABLE)
    limits = ServeLimits(
        max_n=args.max_n,
        max_tokens=args.max_tokens,
        max_queue=args.max_queue,
        timeout_s=args.timeout,
    )
    with server.bind(args.host, args.port) as listener:
        previewer = None if args.generator is None else _load_previewer(args.generator)
        with contextlib.closing(_load(args, guard)) as backend:
            port = listener.getsockname()[1]
            server.serve(
                app.Server(backend, limits, key, previewer),
                listener,
                lambda: _announce(args, backend, port, bool(key)),
            )


def _load(args: argparse.Namespace, guard: Mapping[str, Any]) -> "Backend":
    """The model, ready to answer."""
    others = {"--model": args.model, "--adapter": args.adapter, "--upstream": args.upstream}
    check_style(args, others)
    if args.upstream is not None:
        from pav_jax.booster.guard import Guard
        from pav_jax.serve.upstream import UpstreamBackend

        own_options = (args.template, args.name, args.adapter or None, INT8_CHOICES[args.int8])
        if any(value is not None for value in own_options):
            raise BadInput(
                "--upstream: the other server has template, name, adapters and precision; leave"
                " --template, --name, --adapter and --int8 out",
                source="--upstream",
            )
        models = [args.model] if args.model else []
        return UpstreamBackend(args.upstream, models, args.timeout, Guard().with_fields(guard))
    from pav_jax.booster.adapter_folders import common_base, read_options, style_adapter
    from pav_jax.booster.booster import Booster
    from pav_jax.serve.local import LocalBackend

    adapters = [style_adapter(args.style)] if args.style else read_options(args.adapter)
    model = args.model or (common_base(adapters) if adapters else None)
    booster = Booster.from_pretrained(
        model,
        template=args.template,
        batch_size=args.batch_size,
        int8=INT8_CHOICES[args.int8],
        adapters={adapter.name: adapter.path for adapter in adapters},
    )
    booster = dataclasses.replace(booster, guard=booster.guard.with_fields(guard))
    if args.style:
        booster = dataclasses.replace(booster, default_adapter=args.style)
    backend = LocalBackend(booster, args.name)
    _say("compiling")
    backend.warm_up()
    return backend


def _load_previewer(path: str) -> "Previewer":
    """The generator, ready to make videos."""
    from pav_jax.serve.preview import Previewer
    from pav_jax.video.loading import load_generator

    previewer = Previewer(load_generator(path, batch_size=1))
    _say("compiling the generator")
    previewer.warm_up()
    return previewer


def _announce(args: argparse.Namespace, backend: "Backend", port: int, has_key: bool) -> None:
    host = f"[{args.host}]" if ":" in args.host else args.host
    if args.host not in LOCAL_HOSTS and not has_key:
        _say(f"anybody who reaches {args.host} can use it: set {API_KEY_VARIABLE} to ask for a key")
    _say(f"{', '.join(backend.models)} at http://{host}:{port} (routes: /docs)")


def _say(text: str) -> None:
    print(f"pav serve: {text}", file=sys.stderr, flush=True)
