"""Plain measures of text: how well a compressor does, how much two texts share, whether a sample looks like its corpus."""

import collections
import lzma
import math
import re


def words(text):
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower())


def shared_five_grams(text, others):
    """Share of the word 5-grams of `text` (counted with repetition) that occur in any of `others`."""
    grams = five_grams(text)
    known = set()
    for other in others:
        known.update(five_grams(other))
    return sum(gram in known for gram in grams) / len(grams)


def five_grams(text):
    found = words(text)
    return list(zip(found, found[1:], found[2:], found[3:], found[4:]))


def xz_bits_per_byte(given, text):
    """What `xz -9` needs for a byte of `text` when it has seen `given` first: bytes in, bytes added to the archive. Its 64 MiB window covers both."""
    alone = len(lzma.compress(given, format=lzma.FORMAT_XZ, preset=9))
    both = len(lzma.compress(given + text, format=lzma.FORMAT_XZ, preset=9))
    return 8 * (both - alone) / len(text)


def bits_per_byte(loss, targets, tokens, vocab_size, text_bytes):
    """Bits a byte from a mean loss in nats over `targets` of the text's `tokens`. Tokens that were no target (a document's first has no context)
    are charged as if drawn uniformly from the vocabulary, so that every byte of the text is paid for."""
    bits = loss * targets / math.log(2) + (tokens - targets) * math.log2(vocab_size)
    return bits / text_bytes


def known_word_share(sample, corpus):
    """Share of the sample's words that occur in the corpus."""
    vocabulary = set(words(corpus))
    found = words(sample)
    return sum(word in vocabulary for word in found) / max(1, len(found))


def speakers(corpus, at_least=5):
    """Who speaks in the corpus: lines such as `MACBETH.` or `First Witch.` that occur several times."""
    found = re.findall(r"^[A-Z][A-Za-z']*(?: [A-Z][A-Za-z']*){0,3}\.$", corpus, re.MULTILINE)
    return {line for line, times in collections.Counter(found).items() if times >= at_least}


def speaker_lines(sample, known):
    """Lines of the sample that name one of the `known` speakers."""
    return [line for line in sample.splitlines() if line in known]


def lines_like_speakers(sample):
    """Lines that stand where a play has its speakers: a name in capitals and a full stop, invented names among them."""
    return [line for line in sample.splitlines() if re.fullmatch(r"[A-Z][A-Z']+(?: [A-Z][A-Z']+){0,3}\.", line)]
