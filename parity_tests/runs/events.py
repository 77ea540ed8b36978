"""What TensorBoard shows of a folder of event files."""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Name of each curve -> its steps and values; where a session starts, later steps are taken back."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.iterdir()):
        for event in _events(path.read_bytes()):
            if event.session_log.status == SessionLog.START:
                curves = {tag: [p for p in curve if p[0] < event.step] for tag, curve in curves.items()}
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def _events(data: bytes):
    """A record is a length, a checksum, an event and a checksum; a killed process leaves a part of one."""
    start = 0
    while start + 12 <= len(data):
        (size,) = struct.unpack_from("<Q", data, start)
        record = data[start + 12 : start + 12 + size]
        if len(record) == size:
            yield Event.FromString(record)
        start += 16 + size
