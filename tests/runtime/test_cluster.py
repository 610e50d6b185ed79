import socket
from pathlib import Path

import pytest

from runtime.cluster import LocalCluster, PortBusyError
from runtime.deployment import read_serve_yaml


def test_a_busy_port_is_refused_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortBusyError, match=f"port {port} on 127.0.0.1 is taken"):
            LocalCluster(read_serve_yaml(Path("serve.yaml")), port=port)
