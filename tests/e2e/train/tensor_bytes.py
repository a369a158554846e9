"""Safetensors files and checkpoint manifests, written by hand: what the program would never write itself."""

import json
import struct

from tiny_run import xxh3_file


def file_bytes(header, data=b"", length=None):
    """`header` as a dict or as bytes; `length` replaces the true header length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin, end, dtype="U8", shape=None):
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def split(path):
    """Header and data of a file."""
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def without(path, name):
    """The file anew, without one tensor and its bytes."""
    header, data = split(path)
    begin, end = header.pop(name)["data_offsets"]
    for key, entry in header.items():
        if key != "__metadata__":
            entry["data_offsets"] = [at - (end - begin) * (at >= end) for at in entry["data_offsets"]]
    path.write_bytes(file_bytes(header, data[:begin] + data[end:]))


def redo_manifest(checkpoint):
    """The manifest tells sizes and hashes as they are now: what is wrong must then be found by other means."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        file = checkpoint / name
        manifest["files"][name] = {"bytes": file.stat().st_size, "xxh3": xxh3_file(file)}
    path.write_text(json.dumps(manifest))
