"""Parquet and arrow files row by row, without holding a file in memory.

`columns(schema, path)` says what is read: (names of the columns, a function that yields what the rows of a record batch of them hold).
`text_column(key)` reads one text column: bytes, None where the row is null."""

from command import DamagedError, UserError

ROWS = 64  # turned into Python objects at a time


def text_column(key):
    def columns(schema, path):
        _check_column(schema, key, path)
        return [key], lambda batch: _values(batch.column(key))

    return columns


def _check_column(schema, key, path):
    import pyarrow as pa

    if key not in schema.names:
        raise UserError(f"{path}: column {key!r} is missing; found: {', '.join(map(repr, schema.names[:8])) or 'no column'} (see --key)")
    kind = schema.field(key).type
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values)):
        raise UserError(f"{path}: column {key!r}: found {kind}, expected string")


def _values(column):
    """As bytes: what is not UTF-8 is reported by its row, by whoever reads."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    for begin in range(0, len(column), ROWS):
        yield from column.slice(begin, ROWS).cast(pa.large_binary()).to_pylist()


def parquet_rows(path, columns, first):
    """Yields (row, value) from row number `first` on; row groups before it are not read."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    row = 0
    try:
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            names, values = columns(file.schema_arrow, path)
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if row + count <= first:
                    row += count
                    continue
                for batch in file.iter_batches(batch_size=ROWS, row_groups=[group], columns=names):
                    for value in values(batch):
                        if row >= first:
                            yield row, value
                        row += 1
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, "parquet", row, error) from None


def arrow_rows(path, columns, first):
    """The same for arrow files: the stream format, as `datasets` saves it, or the file format (feather)."""
    import pyarrow as pa

    row = 0
    try:
        # Not memory-mapped: the pages of a map count as the process's memory.
        with pa.OSFile(str(path)) as file:
            for batch in _record_batches(file):
                names, values = columns(batch.schema, path)
                if row + batch.num_rows <= first:
                    row += batch.num_rows
                    continue
                for value in values(batch.select(names)):
                    if row >= first:
                        yield row, value
                    row += 1
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, "arrow", row, error) from None


def _record_batches(file):
    import pyarrow as pa

    if file.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
        return
    file.seek(0)
    yield from pa.ipc.open_stream(file)


def _damaged(path, kind, row, error):
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such file or folder")
    place = f"row {row}: " if row else ""
    return DamagedError(f"{path}: {place}not a whole {kind} file: {str(error).splitlines()[0]}")
