"""Serve applications for declarative configurations, such as KubeRay's RayService: no driver of ours starts them.

    applications:
    - name: reward
      import_path: reward_service.application:reward
      route_prefix: null
      args: {app_name: reward, checkpoint: /models/grm, service: {num_gpus: 1}}
    - name: http
      import_path: reward_service.application:http
      route_prefix: /
      args: {app_name: reward}

`reward` is what `deploy` starts, for actors in the cluster. `http` answers HTTP through Serve's proxy, for everybody
else: the interface of `dopamine serve`. Its token comes from the environment variable DOPAMINE_TOKEN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ray import serve
from ray.serve import Application

from dopamine_rl.config import load_table
from dopamine_rl.errors import BadInput
from reward_service.client import ServeRewardClient
from reward_service.deployment import application
from reward_service.guards import IngressConfig, load_token
from reward_service.ingress import make_app
from reward_service.service import ServiceConfig, check_engine

PUBLIC = "0.0.0.0"


@dataclass(frozen=True)
class RewardArguments:
    """What `reward` is given.

    Args:
        app_name: the application's name in the configuration.
        checkpoint: folder that every node can read, or a hub id for engines that take one.
        service: how it is served; it has no lease, because no driver holds one.
    """

    app_name: str = ""
    checkpoint: str = ""
    service: ServiceConfig = field(default_factory=ServiceConfig)


@dataclass(frozen=True)
class HttpArguments:
    """What `http` is given.

    Args:
        app_name: name of the application that scores.
        replicas: processes that answer.
        num_cpus: CPUs reserved for each.
        ingress: limits. Host, port, connections and TLS are those of Serve's proxy.
    """

    app_name: str = ""
    replicas: int = 1
    num_cpus: float = 1.0
    ingress: IngressConfig = field(default_factory=lambda: IngressConfig(host=PUBLIC, insecure=True))


def reward(args: Mapping[str, Any]) -> Application:
    """The application that scores. Raises BadInput."""
    arguments = load_table(RewardArguments, args, RewardArguments())
    _require(app_name=arguments.app_name, checkpoint=arguments.checkpoint)
    check_engine(arguments.service)
    return application(arguments.app_name, replace(arguments.service, lease_s=0.0), arguments.checkpoint)


def http(args: Mapping[str, Any]) -> Application:
    """The application that answers HTTP. Raises BadInput."""
    arguments = load_table(HttpArguments, args, HttpArguments())
    _require(app_name=arguments.app_name)

    def build() -> Any:
        """In the replica: it alone needs the token."""
        token = load_token(None, PUBLIC)
        return make_app(ServeRewardClient(arguments.app_name), arguments.ingress, token)

    answering = serve.deployment(
        name="http",
        num_replicas=arguments.replicas,
        ray_actor_options={"num_cpus": arguments.num_cpus},
        max_ongoing_requests=arguments.ingress.max_requests,
    )(serve.ingress(build)())
    return answering.bind()


def _require(**texts: str) -> None:
    for name, text in texts.items():
        if not text:
            raise BadInput(f"args.{name}", text, "give it")
