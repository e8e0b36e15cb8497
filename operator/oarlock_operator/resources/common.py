"""What all children share: labels, the owner, and the mark by which a field we stop sending is noticed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from .. import names
from ..world import Cluster, Manifest


def child(cluster: Cluster, api: str, kind: str, name: str, **body: Any) -> Manifest:
    """A complete manifest of a child of this cluster, with the hash of itself as an annotation."""
    manifest: Manifest = {
        "apiVersion": api,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": cluster.namespace,
            "labels": names.labels(cluster.name),
            "ownerReferences": [names.owner(cluster.name, cluster.uid)],
        },
        **body,
    }
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["metadata"]["annotations"] = {names.DESIRED_ANNOTATION: hashlib.sha256(text.encode()).hexdigest()[:16]}
    return manifest


def orphaned(manifest: Manifest, cluster: Cluster) -> bool:
    """Made by an operator for a RaftCluster of this name that was deleted with `--cascade=orphan`, and now nobody's?"""
    meta = manifest["metadata"]
    marked = names.labels(cluster.name).items() <= meta.get("labels", {}).items()
    return not meta.get("ownerReferences") and marked and names.DESIRED_ANNOTATION in meta.get("annotations", {})


def owned(manifest: Manifest, cluster: Cluster) -> bool:
    """Is this live object a child of this very RaftCluster (and not of an earlier one of the same name)?"""
    return any(reference["uid"] == cluster.uid for reference in manifest["metadata"].get("ownerReferences", []))
