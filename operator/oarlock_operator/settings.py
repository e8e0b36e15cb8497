"""What the operator is told by its environment (`OARLOCK_OPERATOR_*`), once, at start."""

from __future__ import annotations

import secrets
import socket

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="OARLOCK_OPERATOR_", frozen=True)

    node_image: str = Field(default="oarlock/node:0.1.0", description="Image of members whose RaftCluster names none.")
    namespace: str = Field(default="", description="The operator's own namespace; empty outside a pod.")
    watch_namespace: str = Field(default="", description="Carry the RaftClusters of this namespace alone.")
    host: str = Field(default="0.0.0.0", description="Address of the port for metrics and liveness.")
    port: int = Field(default=8080, description="Port for metrics and liveness.")
    rolling_clusters: int = Field(default=3, ge=1, description="How many clusters may be in a rolling update at once.")
    log_format: str = Field(default="json", pattern="^(json|console)$")
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    identity: str = Field(
        # A restarted container has its predecessor's host name and must not take its Lease for its own.
        default_factory=lambda: f"{socket.gethostname()}-{secrets.token_hex(4)}",
        description="Holder of the Leases; unique to this process.",
    )
