"""A disk for nbdkit's python plugin that notes each write and each flush.

Loaded by nbdkit, not by scripts/crash. A record of the log: `W` or `F`, the time (ns), offset,
length, data. What a drive with a volatile cache may lose follows from it: all after the last `F`.
"""

import builtins
import os
import struct
import time

import nbdkit

API_VERSION = 2
RECORD = struct.Struct("<cQQI")
FILES = {}


def config(key, value):
    """`image` is the disk's file, `log` the log's."""
    if key == "image":
        FILES[key] = os.open(value, os.O_RDWR)
    elif key == "log":
        FILES[key] = builtins.open(value, "ab", buffering=0)
    else:
        raise RuntimeError(f"unknown key '{key}'")


def thread_model():
    """One request after the other: the log's order is what happened."""
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def open(_readonly):
    """No state per connection."""
    return 1


def get_size(_handle):
    """Bytes."""
    return os.fstat(FILES["image"]).st_size


def can_flush(_handle):
    """What this is about."""
    return True


def pread(_handle, buf, offset, _flags):
    """Reads."""
    buf[:] = os.pread(FILES["image"], len(buf), offset)


def pwrite(_handle, buf, offset, _flags):
    """Writes, and notes it."""
    data = bytes(buf)
    os.pwrite(FILES["image"], data, offset)
    note(b"W", offset, data)


def flush(_handle, _flags):
    """Notes it; the file need not be synced."""
    note(b"F", 0, b"")


def note(kind, offset, data):
    """One record, in one write."""
    FILES["log"].write(RECORD.pack(kind, time.time_ns(), offset, len(data)) + data)
