"""The state machine we ship: a store of versioned keys."""

from oarlock.kv.commands import Compact, Delete, Put, encode_compact, encode_delete, encode_put, result_number
from oarlock.kv.layout import MAX_KEY_BYTES, MAX_VALUE_BYTES
from oarlock.kv.machine import KvMachine
from oarlock.kv.query import Compacted, FutureRevision, KeyValue, Page, RevisionUnavailable, get, list_page
from oarlock.kv.validate import Invalid, TooLarge

__all__ = [
    "MAX_KEY_BYTES",
    "MAX_VALUE_BYTES",
    "Compact",
    "Compacted",
    "Delete",
    "FutureRevision",
    "Invalid",
    "KeyValue",
    "KvMachine",
    "Page",
    "Put",
    "RevisionUnavailable",
    "TooLarge",
    "encode_compact",
    "encode_delete",
    "encode_put",
    "get",
    "list_page",
    "result_number",
]
