"""A stream of bytes cut into lines and documents without holding more than one of them."""


def rest_of_line(stream):
    """Reads to the end of the line; returns how many bytes that took."""
    count = 0
    while piece := stream.readline(1 << 20):
        count += len(piece)
        if piece.endswith(b"\n"):
            break
    return count


def blank_parts(stream, arguments, offset):
    """(begin, offset after, bytes) of what one or more blank lines separate. A document keeps its own line ends but the last before a blank
    line; its first line may be blank itself. Bytes are None where they are too many."""
    longest = arguments.max_document_bytes
    begin, part, new_line, between = offset, bytearray(), True, offset > 0  # where reading goes on, a separator went before
    while piece := stream.readline(1 << 20):
        blank = new_line and piece.endswith(b"\n") and not piece.strip(b" \t\r\n")
        new_line = piece.endswith(b"\n")
        offset += len(piece)
        if blank and between:
            begin = offset
        elif blank and part != b"":
            yield begin, offset, part[:-1] if part is not None else None
            begin, part, between = offset, bytearray(), True
        else:
            between = False
            if part is not None:
                part += piece
                part = part if len(part) <= longest + 1 else None
    if part != b"":
        yield begin, offset, part


def separated_parts(stream, arguments, offset):
    """The same, of what the separator's bytes separate."""
    separator, longest = arguments.document_separator.encode(), arguments.max_document_bytes
    begin, part, long = offset, bytearray(), False
    while piece := stream.read(1 << 18):
        seen = max(0, len(part) - len(separator) + 1)
        part += piece
        while (at := part.find(separator, seen)) >= 0:
            after = begin + at + len(separator)
            yield begin, after, None if long or at > longest else part[:at]
            del part[: at + len(separator)]
            begin, seen, long = after, 0, False
        if long or len(part) > longest + len(separator):  # keep what may be the beginning of a separator
            keep = min(len(part), len(separator) - 1)
            begin += len(part) - keep
            del part[: len(part) - keep]
            long = True
    if part or long:
        yield begin, begin + len(part), None if long else part
