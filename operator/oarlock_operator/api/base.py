"""What every model of the API shares: camelCase outside, snake_case inside, frozen, lenient when read.

An object may have been stored by a newer operator with fields we do not know: they are ignored, never refused.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


def _alias(name: str) -> str:
    """Kubernetes writes initialisms in capitals at the end of a name: nodeID, clusterID."""
    camel = to_camel(name)
    return camel[:-2] + "ID" if camel.endswith("Id") else camel


class Model(BaseModel):
    model_config = ConfigDict(alias_generator=_alias, populate_by_name=True, extra="ignore", frozen=True)
