"""The bodies of the client port's own routes (2379) beside the keys themselves.

Unknown fields in an answer are ignored: an older client must read a newer member.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from oarlock.wire.admin import Role, State


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PutAnswer(_Answer):
    """One of `key` and `key_b64`: a key that is not UTF-8 comes as base64."""

    key: str | None = None
    key_b64: str | None = None
    revision: int  # the store's revision that this write made; also the key's ETag
    version: int  # 1 for a new key, and one more for each write since


class KeyAnswer(_Answer):
    key: str | None = None
    key_b64: str | None = None
    value: str | None = None
    value_b64: str | None = None
    create_revision: int
    mod_revision: int
    version: int


class ListAnswer(_Answer):
    """`next` is a relative URL that continues this list at the same revision; it is there if `more` is true."""

    items: list[KeyAnswer]
    revision: int
    more: bool
    next: str | None = None


class CountAnswer(_Answer):
    count: int
    revision: int


class ClientStatusAnswer(_Answer):
    """What this member says of itself to anybody."""

    state: State
    reason: str = ""
    cluster_id: str | None
    node_id: str
    version: str
    cluster_version: int
    role: Role
    term: int
    leader: str | None
    leader_contact_age_seconds: float | None
    commit_index: int
    applied_index: int
    revision: int


class ClusterMember(_Answer):
    id: str
    client_url: str
    peer_url: str
    voter: bool
    leader: bool


class ClusterAnswer(_Answer):
    """Who takes part, as this member knows it. `configuration_id` is the place of the configuration in the log."""

    cluster_id: str | None
    configuration_id: str | None
    committed: bool
    leader: str | None
    term: int
    members: list[ClusterMember]
