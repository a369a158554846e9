"""The official safetensors library reads what we write, and we read what it writes, bit for bit."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
    import safetensors
    import safetensors.numpy
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

driver = sys.argv[1]
NUMPY_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
                "U8": "uint8", "BOOL": "bool"}


def run(*arguments):
    return subprocess.run([driver, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def they_read_ours(folder):
    path = folder / "ours.safetensors"
    run("write", path)
    header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
    assert (8 + header_bytes) % 64 == 0, header_bytes
    entries = dict(safetensors.deserialize(path.read_bytes()))
    assert len(entries) == 12, entries.keys()
    pattern = bytes(range(96))
    for name, width in (("F64", 8), ("F32", 4), ("F16", 2), ("BF16", 2), ("I64", 8), ("I32", 4), ("I16", 2), ("I8", 1), ("U8", 1)):
        entry = entries[f"t.{name}"]
        assert (entry["dtype"], entry["shape"], bytes(entry["data"])) == (name, [3, 4], pattern[: 12 * width]), name
    assert entries["scalar é"]["shape"] == [] and entries["empty"]["shape"] == [0, 5]
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt", "note": 'a "quoted" é'}, file.metadata()
        assert file.get_tensor("flags").tolist() == [True, False, True]
        assert file.get_tensor("t.F64").tobytes() == pattern
        assert "t.BF16" in file.keys()


def they_read_a_checkpoint(folder):
    run("save", folder / "step-7", 7)
    with safetensors.safe_open(folder / "step-7/model.safetensors", framework="np") as file:
        weight = file.get_tensor("embedding.weight")
        assert weight.shape == (4, 6)
        np.testing.assert_array_equal(weight.ravel(), np.float32(7) + np.float32(0.1) * np.arange(24, dtype=np.float32))
        assert file.metadata()["step"] == "7"


def we_read_theirs(folder):
    generator = np.random.default_rng(1)
    tensors = {name: generator.integers(0, 2, (5, 2, 3)).astype(dtype) for name, dtype in NUMPY_DTYPES.items()}
    tensors["weights"] = generator.standard_normal((17, 9)).astype("float32")
    tensors["scalar"] = np.array(2.5)
    tensors["empty"] = np.zeros((3, 0), "float16")
    path = folder / "theirs.safetensors"
    for metadata in (None, {"a": "b", "é": ""}):
        safetensors.numpy.save_file(tensors, path, metadata=metadata)
        listed = json.loads(run("list", path))
        assert listed["metadata"] == (metadata or {})
        assert listed["tensors"].keys() == tensors.keys()
        for name, array in tensors.items():
            found = listed["tensors"][name]
            assert found["shape"] == list(array.shape), name
            assert NUMPY_DTYPES[found["dtype"]] == array.dtype, name
            assert found["hex"] == array.tobytes().hex(), name


def both_accept_no_tensors(folder):
    path = folder / "none.safetensors"
    safetensors.numpy.save_file({}, path)
    assert json.loads(run("list", path)) == {"metadata": {}, "tensors": {}}


with tempfile.TemporaryDirectory() as temporary:
    for check in (they_read_ours, they_read_a_checkpoint, we_read_theirs, both_accept_no_tensors):
        check(Path(temporary))
        print(f"{check.__name__}: ok (safetensors {safetensors.__version__})")
