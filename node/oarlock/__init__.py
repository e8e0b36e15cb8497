"""Oarlock: a Raft consensus service. One process is one member; see CONTRIBUTING.md for the map of the house."""

__version__ = "0.1.0"
