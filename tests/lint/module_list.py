#!/usr/bin/env python3
"""Forbids torch::nn::ModuleList::insert in src/ and tests/: in LibTorch 2.11 an insertion in the middle leaves one block unregistered, and
nothing says so. A grown model is built new at its depth and filled by growth/remap.h.

    module_list.py [ROOT]      ROOT: the repository, default two folders up
    module_list.py --self-test plants insertions in a temporary tree and fails unless each is caught

Reported: insert on anything declared as a ModuleList in the same file or its header, and on anything that is called blocks, layers or modules.
"""
import pathlib
import re
import sys
import tempfile

SUFFIXES = {".h", ".hpp", ".cpp", ".cc"}
DECLARED = re.compile(r"\bModuleList(?:Impl)?\b[\s&*>]*\s(\w+)\s*(?:[;{=(,)]|$)", re.MULTILINE)
CALL = re.compile(r"\b(\w+)\s*(?:\(\s*\))?\s*(?:->|\.)\s*insert\s*\(")
QUALIFIED = re.compile(r"\bModuleList(?:Impl)?\s*::\s*insert\b")
SUSPECT = re.compile(r"^(?:\w*_)?(?:blocks|layers|modules)_?$")


def without_comments(text):
    """The text with // comments blanked, so that a comment may name what is forbidden."""
    return re.sub(r"//[^\n]*", "", text)


def violations(root):
    found = []
    files = [path for folder in ("src", "tests") for path in sorted((root / folder).rglob("*")) if path.suffix in SUFFIXES]
    for path in files:
        text = without_comments(path.read_text(encoding="utf-8", errors="replace"))
        header = path.with_suffix(".h")
        scope = text + (without_comments(header.read_text(encoding="utf-8", errors="replace")) if header != path and header.is_file() else "")
        lists = set(DECLARED.findall(scope))
        for match in list(CALL.finditer(text)) + list(QUALIFIED.finditer(text)):
            name = match[1] if match.re is CALL else "ModuleList"
            if match.re is QUALIFIED or name in lists or SUSPECT.match(name):
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{path.relative_to(root).as_posix()}:{line}: {name}: ModuleList::insert loses a block; build the model anew and remap")
    return found


# Planted line 2 of a file, and whether it must be caught.
PLANTED = [
    ("torch::nn::ModuleList stack; void f() { stack->insert(1, block); }", True),
    ("void f(torch::nn::ModuleList& list) { list->insert(0, block); }", True),
    ("void f() { blocks_->insert(1, block); }", True),
    ("void f() { model->blocks().insert(1, block); }", True),
    ("void f() { layers . insert (1, block); }", True),
    ("auto f = &torch::nn::ModuleListImpl::insert;", True),
    ("void f() { names.insert(name); calls.insert(calls.end(), a, b); }", False),
    ("void f() { inserted_blocks(map); }", False),
    ("// blocks_->insert(1, block) would lose one", False),
    ("torch::nn::ModuleList stack; void f() { stack->push_back(block); }", False),
]


def self_test():
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "src/nn").mkdir(parents=True)
        for i, (line, _) in enumerate(PLANTED):
            (root / f"src/nn/file_{i}.cpp").write_text(f"// planted\n{line}\n")
        (root / "src/nn/pair.h").write_text("struct Pair {\n  torch::nn::ModuleList stack_;\n};\n")
        (root / "src/nn/pair.cpp").write_text("\n\nvoid Pair::grow() { stack_->insert(1, block); }\n")
        found = violations(root)
    for i, (line, caught) in enumerate(PLANTED):
        if any(text.startswith(f"src/nn/file_{i}.cpp:2:") for text in found) != caught:
            failures.append(f"{line}: expected {'a report' if caught else 'none'}; found {found}")
    if not any(text.startswith("src/nn/pair.cpp:3:") for text in found):
        failures.append("a list declared in the header: not caught")
    return failures


def main(arguments):
    if arguments == ["--self-test"]:
        found = self_test()
    else:
        found = violations(pathlib.Path(arguments[0] if arguments else pathlib.Path(__file__).parents[2]))
    passed = "every planted mistake was caught" if arguments == ["--self-test"] else "ModuleList: nothing is inserted"
    print("\n".join(found) if found else passed)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
