"""Safetensors files and checkpoints that are damaged, mixed or built to hurt: exit code 4, with the file and the tensor, key or byte."""

import json
import shutil
import struct

import refusal
import tiny_run


# Safetensors files and manifests, written by hand: what the program would never write itself.


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
        manifest["files"][name] = {"bytes": file.stat().st_size, "xxh3": tiny_run.xxh3_file(file)}
    path.write_text(json.dumps(manifest))


class Safetensors(refusal.Case):
    def case(self, what, raw, *named):
        path = self.root / "file.safetensors"
        with self.subTest(what):
            path.write_bytes(raw)
            self.refused(4, [path, *named], "inspect", path)

    def test_truncated(self):
        whole = file_bytes({"a": tensor(0, 8), "b": tensor(8, 16)}, bytes(16))
        for kept in (0, 1, 7):
            self.case(f"{kept} bytes", whole[:kept], f"truncated: {kept} bytes")
        self.case("a length alone", whole[:8], "byte 0: header length")
        self.case("half a header", whole[:30], "byte 0: header length", "only 22 bytes follow")
        self.case("no data", whole[:-16], "header: truncated", "16 bytes of data, the file holds 0")
        self.case("half a tensor", whole[:-12], "header: truncated", "holds 4")
        self.case("one byte short", whole[:-1], "header: truncated", "holds 15")
        self.case("a tail", whole + b"\0", "1 trailing bytes")

    def test_overlapping(self):
        def case(what, entries, *named):
            self.case(what, file_bytes(entries, bytes(16)), "overlapping", *named)

        case("by one byte", {"a": tensor(0, 9), "b": tensor(8, 16)}, "b.data_offsets: begins at 8")
        case("by all but one", {"a": tensor(0, 8), "b": tensor(1, 16)}, "b.data_offsets: begins at 1")
        case("the same bytes twice", {"a": tensor(0, 16), "b": tensor(0, 16)}, "data_offsets: begins at 0")
        case("one inside the other", {"a": tensor(0, 16), "b": tensor(4, 8)}, "b.data_offsets: begins at 4")
        case("the same begin", {"a": tensor(0, 8), "b": tensor(0, 16)}, "b.data_offsets: begins at 0")
        case("the third over the first", {"a": tensor(0, 8), "b": tensor(8, 16), "c": tensor(2, 4)}, "data_offsets: begins at")
        case("in another order of names", {"z": tensor(0, 9), "a": tensor(8, 16)}, "a.data_offsets: begins at 8")
        case("an empty one inside", {"a": tensor(0, 16), "b": tensor(4, 4)}, "b.data_offsets: begins at 4")

    def test_with_holes(self):
        def case(what, entries, *named):
            self.case(what, file_bytes(entries, bytes(16)), *named)

        case("at the begin", {"a": tensor(1, 16)}, "a.data_offsets: begins at 1, leaving a hole")
        case("of one byte", {"a": tensor(0, 7), "b": tensor(8, 16)}, "b.data_offsets: begins at 8, leaving a hole")
        case("of many", {"a": tensor(0, 1), "b": tensor(15, 16)}, "b.data_offsets: begins at 15, leaving a hole")
        case("two", {"a": tensor(0, 2), "b": tensor(4, 6), "c": tensor(8, 16)}, "b.data_offsets: begins at 4")
        case("at the end", {"a": tensor(0, 15)}, "1 trailing bytes")
        case("beside no tensor", {}, "16 trailing bytes")
        case("behind an empty tensor", {"a": tensor(0, 0), "b": tensor(8, 16)}, "b.data_offsets: begins at 8")
        case("that goes beyond the file", {"a": tensor(0, 8), "b": tensor(1 << 40, (1 << 40) + 8)}, "b.data_offsets: begins at 1099511627776")

    def test_header_length_bombs(self):
        for length in (1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 8, 1 << 32, 100_000_001):
            self.case(f"a length of {length}", file_bytes({}, length=length), f"byte 0: header length {length}")
        self.case("no header", file_bytes(b"", length=0), "byte 8: the header does not begin with")
        self.case("a length beyond the file by one", file_bytes(b"{}", length=3), "byte 0: header length 3")
        self.case("brackets by the hundred thousand", file_bytes(b'{"a":' * 100_000), "header: bad JSON at byte", "nested deeper")
        self.case("lists by the hundred thousand", file_bytes(b'{"a":' + b"[" * 100_000), "header: bad JSON at byte", "nested deeper")

    def test_headers_that_lie(self):
        def case(what, entry, *named):
            self.case(what, file_bytes({"a": entry}, bytes(16)), "header: a", *named)

        case("sizes that overflow", tensor(0, 16, shape=[1 << 32, 1 << 32]), "a.shape", "overflows")
        case("sizes that overflow beside a 0", tensor(0, 0, shape=[1 << 62, 8, 0]), "a.shape", "overflows")
        case("a product of 1 modulo 2^64", tensor(0, 1, shape=[3, 6148914691236517205]), "a.data_offsets")
        case("a shape that needs more", tensor(0, 16, "F32", [5]), "a.data_offsets: span 16 bytes", "takes 20")
        case("a negative size", tensor(0, 16, shape=[-16]), "a.shape[0]: found -16")
        case("an unknown type", tensor(0, 16, "F3"), "a.dtype", "unknown dtype")
        case("a type that is none", {**tensor(0, 16), "dtype": 4}, "a.dtype")
        case("an end before the begin", {**tensor(0, 16), "data_offsets": [16, 0]}, "a.data_offsets: ends at 0")
        case("an offset beyond 64 bits", {**tensor(0, 16), "data_offsets": [0, 1 << 63]}, "a.data_offsets[1]")
        case("a key too few", {"dtype": "U8", "shape": [16]}, "data_offsets", "missing")

    def test_headers_that_are_no_json(self):
        for what, header, *named in (("text", b"tensors", "byte 8"), ("a list", b"[1]", "byte 8"), ("open", b'{"a": ', "bad JSON at byte"),
                                     ("a tensor twice", b'{"a": 1, "a": 2}', "bad JSON at byte", "duplicate key"),
                                     ("not UTF-8", b'{"\xff": 1}', "bad JSON at byte"), ("a NUL", b'{"a\0": 1}', "bad JSON at byte 3"),
                                     ("a number beyond range", b'{"a": 1e999}', "bad JSON at byte"),
                                     ("metadata that is no text", b'{"__metadata__": {"step": 5}}', "__metadata__.step"),
                                     ("two values", b"{} {}", "bad JSON at byte")):
            self.case(what, file_bytes(header), *named)


class Checkpoints(refusal.Case):
    with_run = True
    turn = 0

    def setUp(self):
        super().setUp()
        self.newest = tiny_run.published(self.folder)[-1]

    def case(self, what, damage, *named, code=4, needs_model=False):
        """A command that reads checkpoints must refuse what `damage` made of it, and leave it as it is: the commands take turns."""
        commands = (["train", self.config, "--resume", self.newest], ["generate", self.newest, "--prompt-ids", "1", "--max-tokens", "1"],
                    ["grow", self.newest, "--add", "1", "--out", self.root / "grown"], ["inspect", self.newest])
        with self.subTest(what):
            damage(self.newest)
            self.refused(code, [self.newest, *named], *commands[self.turn % (3 if needs_model else 4)])
            self.turn += 1
            self.restore()

    def test_files(self):
        def cut(name, size):
            return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])

        def flip(name, at):
            def damage(folder):
                raw = bytearray((folder / name).read_bytes())
                raw[at] ^= 1
                (folder / name).write_bytes(raw)

            return damage

        for name in ("manifest.json", "state.json", "model.safetensors", "optimizer-0.safetensors"):
            self.case(f"no {name}", lambda folder, name=name: (folder / name).unlink(), f"{name}: is missing")
        for name in ("state.json", "model.safetensors", "optimizer-0.safetensors"):
            self.case(f"an empty {name}", cut(name, 0), f"{name}: 0 bytes")
            self.case(f"{name} short by a byte", cut(name, -1), name, "manifest.json says")
            self.case(f"a bit of {name}", flip(name, -2), f"{name}: xxh3 is")
        self.case("an empty manifest", cut("manifest.json", 0), "manifest.json: bad JSON")

    def test_manifest(self):
        def said(change):
            def damage(folder):
                manifest = json.loads((folder / "manifest.json").read_text())
                change(manifest)
                (folder / "manifest.json").write_text(json.dumps(manifest))

            return damage

        self.case("a list", lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json")
        self.case("a key twice", lambda folder: (folder / "manifest.json").write_text('{"step": 1, "step": 1}'), "duplicate key")
        self.case("an unknown key", said(lambda m: m.update(x=1)), "unknown key 'x'")
        self.case("no version", said(lambda m: m.pop("format_version")), "format_version")
        self.case("a later version", said(lambda m: m.update(format_version=99)), "format_version: found 99", code=2)
        self.case("another step", said(lambda m: m.update(step=7)), "manifest.json: step: found 7")
        self.case("a file outside", said(lambda m: m["files"].update({"../x": m["files"]["state.json"]})), "files.../x", "plain file name")
        self.case("a file not listed", said(lambda m: m["files"].pop("state.json")), "files: state.json is not listed")
        self.case("a file of no format", said(lambda m: m["files"].update(x=m["files"]["state.json"])), "files.x")
        self.case("another size", said(lambda m: m["files"]["state.json"].update(bytes=1)), "state.json", "manifest.json says 1")

    def test_state(self):
        """With hashes that are right: what is wrong is in the state itself."""

        def said(**changes):
            def damage(folder):
                state = json.loads((folder / "state.json").read_text())
                for key, value in changes.items():
                    state[key] = value(state[key]) if callable(value) else value
                (folder / "state.json").write_text(json.dumps(state))
                redo_manifest(folder)

            return damage

        self.case("text", lambda folder: ((folder / "state.json").write_text("x"), redo_manifest(folder)), "state.json: bad JSON at byte")
        self.case("another step", said(step=59), "step: found")
        self.case("a negative step", said(step=-1), "state.json: step")
        self.case("an unknown key", said(rng=lambda rng: {**rng, "x": 1}), "state.json: rng", "'x'")
        self.case("a growth that does not add up", said(growth_history=lambda events: events[:1]), "state.json: blocks")
        self.case("a map with a hole", said(growth_history=lambda events: [{**events[0], "source_of": [0]}, *events[1:]]),
                  "state.json: growth_history[0].source_of")
        self.case("text for a number", said(tokens="3840"), "state.json: tokens")
        self.case("a plan that is none", said(depth_plan="0-"), "state.json: depth_plan")
        self.case("a plan of other blocks", said(depth_plan="0-9"), "state.json: depth_plan")
        self.case("a config that is none", said(config_yaml="model: 3"), "state.json: config_hash")
        self.case("a config that was edited", said(config_yaml=lambda text: text.replace("seed: 3", "seed: 4")), "state.json: config_hash")

    def test_loader_position(self):
        """Only a resume reads it."""

        def case(what, change, *named):
            with self.subTest(what):
                state = json.loads((self.newest / "state.json").read_text())
                position = json.loads(state["loader"])
                change(position)
                state["loader"] = json.dumps(position)
                (self.newest / "state.json").write_text(json.dumps(state))
                redo_manifest(self.newest)
                self.refused(4, [self.newest / "state.json", "loader", *named], "train", self.config, "--branch", self.newest, "run.name=other")
                self.restore()

        case("negative", lambda p: p.update(step=-1), "step")
        case("beyond the sequence", lambda p: p.update(in_step=1 << 40), "in_step")
        case("no whole number", lambda p: p.update(sequence=1.5), "sequence")
        case("a bomb", lambda p: p["sources"][0].update(tokens=1 << 62), "sources[0].tokens")
        case("a source twice", lambda p: p["sources"].append(p["sources"][0]), "twice")
        case("an unknown key", lambda p: p.update(x=1), "'x'")
        case("no sources", lambda p: p.pop("sources"), "sources")
        case("draws that the weights never gave", lambda p: p["drawn"][0].update(sequences=p["sequence"]), "drawn")

    def test_tensors(self):
        """With hashes that are right: a tensor is wrong."""

        def case(what, change, *named, file="model.safetensors"):
            def damage(folder):
                change(folder / file)
                redo_manifest(folder)

            self.case(what, damage, file, *named, needs_model=True)

        def edited(change):
            def write(path):
                header, data = split(path)
                change(header)
                path.write_bytes(file_bytes(header, data))

            return write

        head = "embedding.weight"
        case("one missing", lambda path: without(path, head), head, "missing")
        case("a moment missing", lambda path: without(path, "exp_avg." + head), "exp_avg." + head, "missing", file="optimizer-0.safetensors")
        case("a counter missing", lambda path: without(path, "step.embedding"), "step.embedding", "missing", file="optimizer-0.safetensors")
        case("another shape", edited(lambda h: h[head].update(shape=h[head]["shape"][::-1])), head, "shape")
        case("a moment of another shape", edited(lambda h: h["exp_avg_sq." + head].update(shape=h["exp_avg_sq." + head]["shape"][::-1])),
             "exp_avg_sq." + head, "shape", file="optimizer-0.safetensors")
        case("another type", edited(lambda h: h[head].update(dtype="I32")), head, "I32")
        case("a moment of another type", edited(lambda h: h["exp_avg." + head].update(dtype="I32")), "exp_avg." + head, "I32",
             file="optimizer-0.safetensors")
        case("another name", edited(lambda h: h.update(other=h.pop(head))), head, "missing")
        case("a block that is none", edited(lambda h: h.update({"blocks.x.weight": h.pop("blocks.1.attention.norm.weight")})), "blocks.")
        case("a hole", edited(lambda h: h[head].update(data_offsets=[at + 4 for at in h[head]["data_offsets"]])), "data_offsets")

    def test_mixed(self):
        """Files of two checkpoints in one folder, with and without hashes that cover it."""
        names = ("model.safetensors", "optimizer-0.safetensors", "state.json", "manifest.json")

        def mixed(name, redo):
            def damage(folder):
                shutil.copy(tiny_run.published(self.folder)[-2] / name, folder / name)
                if redo:
                    redo_manifest(folder)

            return damage

        self.case("older weights", mixed(names[0], False), "model.safetensors: xxh3")
        self.case("older moments", mixed(names[1], False), "optimizer-0.safetensors: xxh3")
        self.case("an older state", mixed(names[2], False), "state.json")
        self.case("an older manifest", mixed(names[3], False))
        self.case("older weights, hashed", mixed(names[0], True), "model.safetensors: header: __metadata__.step")
        self.case("older moments, hashed", mixed(names[1], True), "optimizer-0.safetensors: header: __metadata__.step")
        self.case("an older state, hashed", mixed(names[2], True), "step: found")

        def swapped(folder):
            (folder / names[0]).rename(folder / "x")
            (folder / names[1]).rename(folder / names[0])
            (folder / "x").rename(folder / names[1])
            redo_manifest(folder)

        self.case("weights and moments in each other's place", swapped, "__metadata__.content")
        self.case("a file too many", lambda folder: shutil.copy(folder / names[1], folder / "optimizer-1.safetensors"), "optimizer-1.safetensors")

    def test_other_folders(self):
        renamed = self.newest.with_name("step-0000000099")
        shutil.copytree(self.newest, renamed)
        self.refused(4, [renamed, "the folder's name says 99"], "inspect", renamed)
        self.refused(4, [renamed, "the folder's name says 99"], "train", self.config, "run.name=other", "--branch", renamed)
        for one in tiny_run.published(self.folder):
            (one / "model.safetensors").write_bytes(b"")
        self.refused(4, [self.folder / "checkpoints", "none of", "is whole"], "train", self.config, "--resume", "auto")
        self.refused(4, [self.folder / "checkpoints", "none of", "is whole"], "inspect", self.folder)

    def test_changed_configs(self):
        """An exact resume goes on with the same run only: the key is named, and --branch."""
        for change, key in (("optimizer.lr=1e-3", "optimizer.lr"), ("run.seed=4", "run.seed"), ("schedule.steps=61", "schedule.steps"),
                            ("batch.tokens=128", "batch.tokens"), ("model.attention.qk_norm=true", "model.attention.qk_norm"),
                            ("data.document_mask=false", "data.document_mask"), ("growth.moments=zero", "growth.moments"),
                            ("phases.1.mixture.one=0.3", "phases[1].mixture.one"), ("precision.compute=bf16", "precision.compute")):
            with self.subTest(change):
                self.refused(2, [key, "--branch"], "train", self.config, "--resume", "auto", change)
        self.refused(2, [self.folder, "--resume auto"], "train", self.config)
        self.refused(2, [self.folder, "is no branch"], "train", self.config, "--resume", "auto", "--branch", self.newest)
        self.refused(2, [self.folder / "checkpoints", "newer"], "train", self.config, "--resume", tiny_run.published(self.folder)[0])
        self.refused(2, ['model.norm: "pre" in', self.newest, '"post" here'], "train", self.config, "run.name=other", "--branch", self.newest, "model.norm=post")
        self.refused(2, [self.newest, "blocks"], "train", self.config, "run.name=other", "--branch", self.newest, "model.blocks=8",
                     "growth.schedule.at_steps=[20, 40, 50]")
