"""`RaftCluster.spec`: the whole desired state. Names are forever: a field added here is never renamed.

Shrinking a volume or changing its class is a condition in status, not a refusal: a refusal could make a stored
object impossible to correct or delete.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from .base import Model

QUANTITY = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
    r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
_QUANTITY_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "pattern": QUANTITY,
    "x-kubernetes-int-or-string": True,
}
Quantity = Annotated[str | int, WithJsonSchema(_QUANTITY_SCHEMA)]
Policy = Literal["Retain", "Delete"]

# Without isQuantity an object with `banana` can be stored and then neither corrected nor deleted.
_SIZE_RULES = [
    {
        "rule": "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
        "message": "size must be a positive quantity such as 10Gi",
    }
]


class Retention(Model):
    """What becomes of the volumes. Retain keeps them; Delete deletes them, after the membership is committed."""

    when_deleted: Policy = Field(
        default="Retain", description="What becomes of the volumes when the RaftCluster is deleted."
    )
    when_scaled: Policy = Field(
        default="Retain",
        description="What becomes of a member's volume after the member was removed by scaling in. "
        "A retained one is emptied into a quarantine directory, not deleted, when the member is added again.",
    )


class Storage(Model):
    size: Annotated[
        str,
        Field(
            max_length=32,
            description="Size of each member's volume. It can grow; a smaller size than the volumes have is reported "
            "in the condition Degraded and otherwise ignored.",
            json_schema_extra={"x-kubernetes-validations": _SIZE_RULES},
        ),
    ] = "10Gi"
    storage_class_name: Annotated[
        str | None,
        Field(
            max_length=253,
            description="StorageClass of the volumes; the cluster's default class when it is absent. "
            "It is read once, when the StatefulSet is made.",
        ),
    ] = None
    retention: Retention = Field(
        default=Retention(), description="Whether volumes outlive their members and their cluster."
    )


class Resources(Model):
    """Compute resources of a member's container, as in a pod. No CPU limit: throttling looks like a dead leader."""

    requests: Annotated[dict[str, Quantity] | None, Field(max_length=16, description="What is reserved.")] = None
    limits: Annotated[dict[str, Quantity] | None, Field(max_length=16, description="What may not be exceeded.")] = None


class Snapshots(Model):
    """Snapshots beside those that each member takes by itself. One member at a time, followers before the leader."""

    entries: Annotated[
        int | None,
        Field(
            ge=100,
            description="A member takes a snapshot once it has applied this many entries since its last one, though "
            "not more often than every 30 s.",
            json_schema_extra={"format": "int64"},
        ),
    ] = None
    interval_seconds: Annotated[
        int | None,
        Field(
            ge=30,
            description="A member takes a snapshot once its last one is this old, if it has applied anything since.",
            json_schema_extra={"format": "int32"},
        ),
    ] = None


class Spec(Model):
    replicas: Annotated[
        int,
        Field(
            ge=1,
            le=9,
            description="Number of voters. Odd numbers tolerate the most failures: 3 tolerate one, 5 tolerate two.",
            json_schema_extra={"format": "int32"},
        ),
    ] = 3
    image: Annotated[
        str | None,
        Field(min_length=1, max_length=512, description="Image of the members; the operator's default when absent."),
    ] = None
    storage: Storage = Field(default=Storage(), description="The volume of each member.")
    resources: Annotated[Resources | None, Field(description="Compute resources of each member's container.")] = None
    snapshots: Annotated[
        Snapshots | None,
        Field(description="Snapshots beside those that each member takes by itself when its log has grown."),
    ] = None
