"""The order of documents, transcribed from docs/data.md alone: the program's own order must be the same, and the page's table too.

    order_test.py DRIVER     DRIVER: golden_order, which prints the orders of "SEED NAME EPOCH DOCUMENTS" lines
"""

import ctypes
import random
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


def xxh3_64(text, seed):
    library = ctypes.CDLL("libxxhash.so.0")
    library.XXH3_64bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
    library.XXH3_64bits_withSeed.restype = ctypes.c_uint64
    return library.XXH3_64bits_withSeed(text.encode(), len(text.encode()), seed)


def philox(key, counter):
    """Word 0 of Philox4x32-10."""
    c = [counter % 2**32, counter >> 32, 0, 0]
    k = [key % 2**32, key >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b % 2**32, (a >> 32) ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c[0]


def document_at(place, key, documents):
    bits = (documents - 1).bit_length()
    low_bits = bits // 2
    high_bits = bits - low_bits
    value = place
    while True:
        low, high = value % 2**low_bits, value >> low_bits
        for r in (0, 2, 4):
            high ^= philox(key, 8 * low + r) % 2**high_bits
            low ^= philox(key, 8 * high + r + 1) % 2**low_bits
        value = high * 2**low_bits + low
        if value < documents:
            return value


def order(seed, name, epoch, documents, count=None):
    key = xxh3_64(f"data/{name}/epoch {epoch}", seed)
    return [document_at(place, key, documents) for place in range(count or documents)]


def check_program(driver):
    draw = random.Random(1)
    names = ["text", "fineweb-edu", "a", "täxt", "x" * 200]
    cases = [(draw.choice((0, 1, 7, 2**40 + 1)), draw.choice(names), draw.choice((0, 1, 12)), documents)
             for documents in (1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 100, 255, 256, 257, 1000)]
    lines = "".join(f"{seed} {epoch} {documents} {name}\n" for seed, name, epoch, documents in cases)
    said = subprocess.run([driver], input=lines, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == len(cases)
    for case, line in zip(cases, said):
        expected = order(*case)
        assert sorted(expected) == list(range(case[3])), case
        assert line == " ".join(map(str, expected)), f"{case}: {line}, here {expected}"
    return len(cases)


def check_page():
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \| (\d+) \| (\d+) \| `0x([0-9a-f]{16})` \| ([\d ]+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(rows) >= 4, f"{PAGE}: {len(rows)} rows of test vectors"
    for seed, name, epoch, documents, key, places in rows:
        assert xxh3_64(f"data/{name}/epoch {epoch}", int(seed)) == int(key, 16), (name, key)
        found = order(int(seed), name, int(epoch), int(documents), len(places.split()))
        assert places == " ".join(map(str, found)), f"{PAGE}: {places}, here {found}"
    return len(rows)


if __name__ == "__main__":
    print(f"{check_program(sys.argv[1])} orders of the program, {check_page()} of the page")
