"""The tables of docs/crd.md, from the models. What stands outside of the marks in that file is written by hand.

<!-- generated: spec -->
...
<!-- end -->
"""

from __future__ import annotations

import re
from typing import Any

from oarlock_operator import crd

MARKED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def fill(text: str) -> str:
    """The page with each marked part made anew. Raises ValueError when a part is missing, or not known."""
    parts = generated()
    if sorted(found := [name for _, name, _ in MARKED.findall(text)]) != sorted(parts):
        raise ValueError(f"docs/crd.md has the marks {found}; there are the parts {sorted(parts)}")
    return MARKED.sub(lambda match: f"{match[1]}{parts[match[2]]}{match[3]}", text)


def generated() -> dict[str, str]:
    """By the name in the mark."""
    version = crd.definition()["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    columns = version["additionalPrinterColumns"]
    return {
        "name": _lines(f"* {rule['message']}" for rule in schema["x-kubernetes-validations"]),
        "spec": table("spec", schema["properties"]["spec"]),
        "status": table("status", schema["properties"]["status"]),
        "columns": _lines(f"* {column['name']}: `{column['jsonPath']}`" for column in columns),
    }


def table(prefix: str, schema: dict[str, Any]) -> str:
    rows = [_row(path, field) for path, field in fields(prefix, schema)]
    return _lines(["| field | type | default | meaning |", "|---|---|---|---|", *rows])


def fields(prefix: str, schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every field below `schema`, by path, in the order of the models."""
    found = []
    for name, field in schema.get("properties", {}).items():
        path = f"{prefix}.{name}"
        found.append((path, field))
        found += fields(path, field)
        found += fields(f"{path}[]", field.get("items", {}))
    return found


def _row(path: str, field: dict[str, Any]) -> str:
    kind = "quantity" if field.get("x-kubernetes-int-or-string") else field.get("type", "")
    if "additionalProperties" in field:
        kind = "map of quantities"
    if "enum" in field:
        kind = " or ".join(f"`{value}`" for value in field["enum"])
    elif field.get("format") == "date-time":
        kind = "time"
    if "minimum" in field and "maximum" in field:
        kind += f", {field['minimum']} to {field['maximum']}"
    elif field.get("minimum", 0) > 0:
        kind += f", at least {field['minimum']}"
    default = field.get("default")
    shown = "" if default in (None, {}, [], "") else f"`{str(default).lower() if default is False else default}`"
    rules = "".join(f" {rule['message']}." for rule in field.get("x-kubernetes-validations", []))
    meaning = f"{' '.join(field.get('description', '').split())}{rules[:2].upper() + rules[2:] if rules else ''}"
    return f"| `{path}` | {kind} | {shown} | {meaning} |"


def _lines(lines: Any) -> str:
    return "".join(f"{line}\n" for line in lines)
