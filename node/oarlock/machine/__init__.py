"""What a replicated state machine is, and the LMDB environment it lives in."""

from oarlock.machine.apply import ApplyJob
from oarlock.machine.command import Batch, Command, Result, Status, decode_batch, encode_batch
from oarlock.machine.environment import Content, Environment
from oarlock.machine.errors import NewerState, OutOfSpace, UnknownEntry, WrongState
from oarlock.machine.protocol import ApplyContext, Head, Machine, Session, Trees
from oarlock.machine.state import Applied

__all__ = [
    "Applied",
    "ApplyContext",
    "ApplyJob",
    "Batch",
    "Command",
    "Content",
    "Environment",
    "Head",
    "Machine",
    "NewerState",
    "OutOfSpace",
    "Result",
    "Session",
    "Status",
    "Trees",
    "UnknownEntry",
    "WrongState",
    "decode_batch",
    "encode_batch",
]
