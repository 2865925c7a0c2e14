"""On a Ray cluster: the same application as a deployment with replicas that come and go with the load."""

from __future__ import annotations

from typing import Any

from instil.core import console
from instil.core.errors import ConfigError
from instil.serve.config import ServeConfig

_BUSY = 0.75
"""The share of a replica's queue at which another one is started."""


def deployment_options(config: ServeConfig, *, most_replicas: int, gpus: float) -> dict[str, Any]:
    """How Ray is to keep replicas: one has the threads, or the GPU, of one server. `gpus`: how many the cluster has,
    which decides for the device "auto"; a replica without one sees none."""
    limits, options = config.limits, config.options
    on_gpu = gpus >= 1 if options.device == "auto" else options.device.startswith("cuda")
    return {
        "autoscaling_config": {
            "min_replicas": 1, "max_replicas": most_replicas, "target_ongoing_requests": max(1, limits.batch),
        },
        "max_ongoing_requests": max(1, round(_BUSY * limits.queue)) + limits.batch,
        "max_queued_requests": limits.queue,
        "graceful_shutdown_timeout_s": limits.deadline_s,
        "ray_actor_options": {"num_cpus": options.threads or 1, "num_gpus": 1 if on_gpu else 0},
    }  # fmt: skip


def serve_on_ray(config: ServeConfig, *, most_replicas: int) -> None:
    """Run until interrupted. Models must lie where every node finds them. Raises `ConfigError` without Ray."""
    try:
        import ray
        from ray import serve
    except ImportError:
        raise ConfigError("Ray is not installed; run: pip install 'instil[ray]'") from None
    from instil.serve.app import make_app
    from instil.serve.service import Service

    # Ray chooses the GPU of a replica, which sees no other one.
    device = config.options.device.partition(":")[0]
    config = config.model_copy(update={"options": config.options.model_copy(update={"device": device})})

    def build() -> Any:
        """In each replica: its own models, queue and metrics."""
        return make_app(Service(config, say=console.say))

    class Replica:
        """One server without its door, which Ray keeps."""

    serve.start(http_options={"host": config.host, "port": config.port})  # Finds the cluster.
    gpus = ray.cluster_resources().get("GPU", 0)
    options = deployment_options(config, most_replicas=most_replicas, gpus=gpus)
    deployment: Any = serve.deployment(**options)(serve.ingress(build)(Replica))
    serve.run(deployment.bind(), name="instil", blocking=True)
