"""Secret `<name>-admin`: the bearer token of everything on port 2380. Made once, never changed by the operator."""

from __future__ import annotations

import base64

from .. import names
from ..world import Cluster, Manifest
from .common import child


def secret(cluster: Cluster, token: str) -> Manifest:
    """`token` is printable ASCII; whoever calls this chose it at random."""
    data = {"token": base64.b64encode(token.encode("ascii")).decode()}
    return child(cluster, "v1", "Secret", names.admin_secret(cluster.name), type="Opaque", data=data)
