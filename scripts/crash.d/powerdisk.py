"""A disk for nbdkit's python plugin that notes each write and each flush, or fails some.

Loaded by nbdkit, not by scripts/crash. A record of the log: `W` or `F`, the time (ns), offset,
length, data. What a drive with a volatile cache may lose follows from it: all after the last `F`.
While the file `fail` is there, writes of tapes' bytes fail and those of the file system's own go
well, as on a disk with bad sectors.
"""

import builtins
import errno
import os
import struct
import time

import nbdkit

API_VERSION = 2
RECORD = struct.Struct("<cQQI")
MARK = b'"pad":"'  # in each message of the load server
FILES = {}


def config(key, value):
    """`image` is the disk's file, `log` the log's, `fail` the flag's; the last two as wanted."""
    if key == "image":
        FILES[key] = os.open(value, os.O_RDWR)
    elif key == "log":
        FILES[key] = builtins.open(value, "ab", buffering=0)
    elif key == "fail":
        FILES[key] = value
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
    if "fail" in FILES and MARK in data and os.path.exists(FILES["fail"]):
        nbdkit.set_error(errno.EIO)
        raise OSError(errno.EIO, "told to fail")
    os.pwrite(FILES["image"], data, offset)
    note(b"W", offset, data)


def flush(_handle, _flags):
    """Notes it; the file need not be synced."""
    note(b"F", 0, b"")


def note(kind, offset, data):
    """One record, in one write."""
    if "log" not in FILES:
        return
    FILES["log"].write(RECORD.pack(kind, time.time_ns(), offset, len(data)) + data)
