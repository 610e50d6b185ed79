"""A local Ray with the kprime application: start, deploy, redeploy, leave nothing behind.

Uses the same `serve.yaml` and the same call as `serve run`. Everything binds to loopback.
"""

import json
import logging
import os
import signal
import socket
import time
from types import TracebackType
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

# Read when ray is first imported: without it Ray listens on every interface of the machine.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Serve gives up on a proxy that is not there within 5 s: on a busy machine none ever is.
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")

import psutil
import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from runtime.deployment import most_replicas

APP = "kprime"
LOOPBACK = "127.0.0.1"
READY_TIMEOUT_S = 180.0
POLL_S = 0.2
GRACE_S = 10.0


class DeployError(RuntimeError):
    """The application did not come up; the message is Serve's."""


class PortBusyError(ValueError):
    """The HTTP port is taken."""


class LocalCluster:
    """Context manager. On exit every process it started is gone, also after an interrupt."""

    def __init__(self, config: dict[str, Any], *, port: int) -> None:
        """`config` is the content of a serve.yaml; raises PortBusyError before anything starts."""
        _require_free(port)
        self._config = {**config, "http_options": {"host": LOOPBACK, "port": port}}
        self.url = f"http://{LOOPBACK}:{port}"
        self._processes: set[psutil.Process] = set()

    def __enter__(self) -> "LocalCluster":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def start(self) -> None:
        """Start Ray and the application; whoever calls this calls `stop` whatever happens."""
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        # "local": a cluster that happens to run here already is not ours to deploy to.
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, most_replicas(self._config)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _node_ip_address=LOOPBACK,
        )
        serve.start(http_options=self._config["http_options"], proxy_location="HeadOnly")
        self.deploy(self._config)
        self._wait_for_route()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stop()

    def deploy(self, config: dict[str, Any]) -> None:
        """Deploy and wait until it runs; redeploying with another `user_config` restarts nothing.

        Raises DeployError with Serve's message.
        """
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline_s:
            self._processes |= _descendants()
            app = serve.status().applications.get(APP)
            if app and app.status == ApplicationStatus.RUNNING:
                return
            if app and app.status in (
                ApplicationStatus.DEPLOY_FAILED,
                ApplicationStatus.UNHEALTHY,
            ):
                details = [deployment.message for deployment in app.deployments.values()]
                raise DeployError("\n".join([app.message, *details]).strip())
            time.sleep(POLL_S)
        raise DeployError(f"the application is not running after {READY_TIMEOUT_S:g} s")

    def _wait_for_route(self) -> None:
        """The proxy learns of a new application a moment after Serve calls it running."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline_s:
            try:
                with urlopen(f"{self.url}/v1/models", timeout=GRACE_S):
                    return
            except (URLError, TimeoutError) as error:
                if isinstance(error, HTTPError):
                    error.close()
            time.sleep(POLL_S)
        raise DeployError(f"{self.url} does not answer after {READY_TIMEOUT_S:g} s")

    def status(self) -> dict[str, Any]:
        """What the governor says of itself."""
        with urlopen(f"{self.url}/kprime/status", timeout=GRACE_S) as answer:
            return json.load(answer)

    def stop(self) -> None:
        """Shut Ray down; what has not ended by itself after a grace period is killed."""
        # Ray's own SIGTERM handler sets an alarm that would end this process in the middle of it.
        signal.alarm(0)
        self._processes |= _descendants()
        if ray.is_initialized():
            serve.shutdown()
            ray.shutdown()
        _, alive = psutil.wait_procs(self._processes, timeout=GRACE_S)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=GRACE_S)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise PortBusyError(f"port {port} on {LOOPBACK} is taken ({error.strerror})") from error


def _descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))
