"""Kubernetes quantities, compared by value: `0.5` and `500m` are one."""

from __future__ import annotations

from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity


def quantity(text: str | int) -> Decimal:
    """Raises ValueError for what is not a quantity."""
    return Decimal(parse_quantity(text))  # type: ignore[no-untyped-call]  # has no annotations
