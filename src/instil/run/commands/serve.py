"""`instil serve` and `instil serve-key`: the student in production."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="[NAME=]MODEL...", help="Runs, stages, exports, GGUF files or hub ids; the student first.",
        show_default=False,
    ),
]  # fmt: skip
Engine = Annotated[str, typer.Option(help="auto, transformers, ctranslate2, llama.cpp, onnx, openvino or vllm.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Threads = Annotated[int | None, typer.Option(help="Threads of one computation.")]


def serve(
    models: Models,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 is any free one.")] = 8000,
    engine: Engine = "auto",
    device: Device = "auto",
    threads: Threads = None,
    speculative: Annotated[
        bool, typer.Option("--speculative", help="The first model guesses ahead for the others (llama.cpp, vllm).")
    ] = False,
    draft_tokens: Annotated[int, typer.Option(help="How many tokens it guesses.")] = 3,
    context: Annotated[
        int, typer.Option(help="Room for prompt and answer, in tokens (transformers: of models without positions).")
    ] = 2048,
    queue: Annotated[int, typer.Option(help="Prompts that may wait for each model; more get 429.")] = 64,
    batch: Annotated[int, typer.Option(help="Prompts that an engine takes at once.")] = 16,
    deadline: Annotated[float, typer.Option(help="Seconds that a prompt may wait.")] = 60.0,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens that a request may ask for.")] = 1024,
    cache_mb: Annotated[float, typer.Option(help="Size of each model's cache of answers; 0 is none.")] = 32.0,
    keys: Annotated[Path | None, typer.Option(help="File of API keys, made by instil serve-key.")] = None,
    cors: Annotated[list[str] | None, typer.Option(help="An origin that browsers may call from. Repeatable.")] = None,
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Put prompts and answers into the log.")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="On a Ray cluster, with replicas and autoscaling.")] = False,
    replicas: Annotated[int, typer.Option(help="The most replicas on a Ray cluster.")] = 4,
) -> None:
    """Serve models over HTTP, compatible with OpenAI's clients."""
    from instil.serve.awake import stay_awake

    stay_awake()
    from instil.core.config import parse
    from instil.run.servable import specs_of
    from instil.serve.config import ServeConfig

    specs = specs_of(models)
    config = parse(
        ServeConfig,
        {
            "models": specs, "host": host, "port": port, "keys": keys, "cors": tuple(cors or ()),
            "log_texts": log_texts,
            "options": {
                "engine": engine, "device": device, "threads": threads, "draft_tokens": draft_tokens,
                "context": context, "draft": specs[0].ref if speculative else None,
            },
            "limits": {
                "queue": queue, "batch": batch, "deadline_s": deadline, "new_tokens": max_new_tokens,
                "cache_mb": cache_mb,
            },
        },
        name="instil serve",
    )  # fmt: skip
    if ray:
        from instil.serve.ray_app import serve_on_ray

        serve_on_ray(config, most_replicas=replicas)
        return
    require("serve", "fastapi", "uvicorn", "prometheus_client")
    from instil.serve.server import serve as run_server

    run_server(config)


def serve_key(
    file: Annotated[Path, typer.Argument(help="The file that keeps the keys' hashes.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Whose key it is, for the log.", show_default=False)],
) -> None:
    """Make an API key, add its hash to a file, and show the key, once."""
    from instil.serve.keys import add_key

    print(add_key(file, name))
    print(f"Next: instil serve MODEL --keys {file}")


def require(extra: str, *packages: str) -> None:
    """Raises `ConfigError` where one of `packages`, which `extra` brings, is not installed."""
    from importlib.util import find_spec

    from instil.core.errors import ConfigError

    if missing := [package for package in packages if find_spec(package) is None]:
        raise ConfigError(f"{', '.join(missing)} is not installed; run: pip install 'instil[{extra}]'")
