"""Serve's side of the number of replicas: an autoscaling policy that does as the governor wishes.

`autoscaling_config.policy` of a serve.yaml names it. Serve's controller calls it ten times a second
within its own loop, so it asks nobody: replicas bring the wish along with the statistics that they
push (`Replica.record_autoscaling_stats`). Serve keeps the number between min_replicas and
max_replicas. Imports nothing of kprime's: Serve's controller may run where there is none.
"""

from typing import Any

from ray.serve.config import AutoscalingContext

WISH = "kprime_replicas"  # the statistic's name


def replicas_wished(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """The latest wish of those that replicas have pushed; as many as are meant to run without one.

    A silent governor leaves no statistic, and so changes nothing. The second part is what Serve
    would keep for the next call.
    """
    latest = [series[-1] for series in context.raw_metrics.get(WISH, {}).values() if series]
    if not latest:
        return context.target_num_replicas, {}
    return int(max(latest, key=lambda point: point.timestamp).value), {}
