"""The composition root: `runtime.app:build` is what serve.yaml names."""

from pathlib import Path

import ray
from pydantic import BaseModel, ConfigDict, PositiveInt
from ray import serve
from ray.serve.config import DeploymentActorConfig

from runtime import governor
from runtime.checkpoint import check_checkpoint, load_profile_of
from runtime.replica import Replica, api

REPOSITORY = Path(__file__).resolve().parents[1]
# A replica that is taken away ends what it has begun. The longest is an answer of a whole context:
# 2048 tokens in 900 s, at a TPOT of 0.44 s.
DRAIN_S = 900.0


class AppArgs(BaseModel):
    """`args` of serve.yaml. Relative paths count from the repository; changes reload the model."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str = "checkpoints/prose-52m"
    profile: str | None = None  # default: profile.json in the checkpoint
    journal: str = "runs/journal.jsonl"
    cache_tokens: PositiveInt = 65536
    share_prefixes: bool = True


def build(args: AppArgs) -> serve.Application:
    checkpoint = REPOSITORY / args.checkpoint
    profile = REPOSITORY / args.profile if args.profile else checkpoint / "profile.json"
    # Here and not only in the replicas, which Serve would start again and again.
    check_checkpoint(checkpoint)
    load_profile_of(checkpoint, profile)
    actor = DeploymentActorConfig(
        name=governor.NAME,
        actor_class=ray.remote(governor.Governor),
        init_kwargs={"profile": str(profile), "journal": str(REPOSITORY / args.journal)},
        actor_options={"num_cpus": 0},
    )
    deployment = serve.deployment(
        name="ElasticMoE",
        max_ongoing_requests=100_000,  # the engine queues: Serve must not hide the queue from it
        health_check_period_s=5,
        graceful_shutdown_timeout_s=DRAIN_S,
        deployment_actors=[actor],
    )(serve.ingress(api)(Replica))
    return deployment.bind(
        checkpoint=str(checkpoint),
        profile=str(profile),
        cache_tokens=args.cache_tokens,
        share_prefixes=args.share_prefixes,
    )
