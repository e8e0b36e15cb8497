"""Generates the CustomResourceDefinition from the models. `python -m oarlock_operator.crd [--check] FILE...` writes it.

Rules: pure, but for `main`; the output holds no `$ref` and no `title`, as structural schemas demand, and stays under
200 KiB (the annotation of client-side `kubectl apply` ends at 256).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import yaml

from . import names
from .api.spec import Spec
from .api.status import Status

Schema = dict[str, Any]

_NAME_RULES = [
    {
        "rule": "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "message": "metadata.name must start with a letter and hold only lower-case letters, digits and dashes",
    },
    {
        # Pods of longer names are refused: the StatefulSet controller adds a hash to the name in a label.
        "rule": "size(self.metadata.name) <= 40",
        "message": "metadata.name must have at most 40 characters",
    },
]


def structural(schema: Schema) -> Schema:
    """A pydantic JSON schema as a structural one: references inlined, titles dropped, `X | None` as optional X."""
    definitions = cast(dict[str, Schema], schema.get("$defs", {}))

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            target = definitions[node["$ref"].rsplit("/", 1)[1]]
            return walk({**target, **{key: value for key, value in node.items() if key != "$ref"}})
        if len(node.get("allOf", [])) == 1:
            return walk({**node["allOf"][0], **{key: value for key, value in node.items() if key != "allOf"}})
        if {"type": "null"} in node.get("anyOf", []):
            (only,) = [option for option in node["anyOf"] if option != {"type": "null"}]
            rest = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
            return walk({**only, **rest})
        out: Schema = {}
        for key, value in node.items():
            if key in ("$defs", "title") and not isinstance(value, dict):
                continue
            if key == "$defs":
                continue
            if key == "properties":
                out[key] = {name: walk(child) for name, child in value.items()}
            elif key == "const":
                out["enum"] = [value]
            else:
                out[key] = walk(value) if key not in ("default", "enum") else value
        return out

    return cast(Schema, walk(schema))


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition of RaftCluster."""
    spec = structural(Spec.model_json_schema(by_alias=True))
    status = structural(Status.model_json_schema(by_alias=True, mode="validation"))
    spec["description"] = "The desired state of the cluster."
    spec["default"] = {}  # an object without spec gets every default, and /scale a number to read
    for name in ("storage",):
        spec["properties"][name]["default"] = {}
    spec["properties"]["storage"]["properties"]["retention"]["default"] = {}
    status["description"] = "What the operator last saw."
    for field in status["properties"].values():
        field.pop("default", None)  # the operator writes status whole; a default here would only hide an omission
    columns = [
        ("Ready", "integer", ".status.readyReplicas", "Members whose pod is Ready"),
        ("Leader", "string", ".status.leader", "Pod of the leader"),
        ("Term", "integer", ".status.term", "Term of the leader"),
        ("Version", "string", ".status.version", "Lowest version that a voter runs"),
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.KIND.lower(),
                "shortNames": ["raft"],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [
                        *(
                            {"name": name, "type": kind, "jsonPath": path, "description": text}
                            for name, kind, path, text in columns
                        ),
                        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": "A Raft cluster: a linearizable, durable key-value store.",
                            "required": ["spec"],
                            "x-kubernetes-validations": _NAME_RULES,
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": spec,
                                "status": status,
                            },
                        }
                    },
                }
            ],
        },
    }


def render() -> str:
    """The definition as YAML, with a line saying where it came from."""
    body = yaml.safe_dump(definition(), sort_keys=False, width=120)
    return "# Generated from operator/oarlock_operator/api by `python -m oarlock_operator.crd`. Do not edit.\n" + body


def main(arguments: list[str]) -> int:
    """Write the given files, or with --check say which differ."""
    files = [Path(name) for name in arguments if name != "--check"]
    text = render()
    if "--check" not in arguments:
        for file in files:
            file.write_text(text)
        return 0
    stale = [file for file in files if not file.exists() or file.read_text() != text]
    for file in stale:
        print(f"{file}: is not what `python -m oarlock_operator.crd` generates", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
