"""`meristem data tokenize INPUT… --tokenizer T --out PREFIX --chat`: conversations to a token shard with a mask of what is trained on."""

import sys
from pathlib import Path

import numpy as np

from chat.encoder import EMPTY, LONG, REWRITTEN, SPECIAL, TOOLS
from chat.records import KINDS, Keys, RecordReader
from chat.template import find_template
from command import Parser, UserError, reported
from text import tokenizing
from text.documents import add_input_arguments
from text.encoding import Recipe
from text.shard_writing import ResumableShard
from text.shards import prefix_of, xxh3_bytes, xxh3_file
from text.tokenizer import begin_ids, end_of_text_id, load_tokenizer, special_tokens, vocabulary_size

MOST_FAULTY = 0.01  # of all records


def said(entry):
    """The first few of what was left out, as the journal has it."""
    more = entry["count"] - len(entry["named"])
    return ", ".join(entry["named"]) + (f" and {more} more" if more else "")


def judge(arguments, journal):
    """Refuses a file with too many records of no use; says which ones were left out or cut."""
    total, left_out = journal["counts"].get("records", 0), journal["left_out"]
    if total == 0:
        raise UserError(f"{arguments.inputs[0]}: no record found{': every one was skipped' if journal['skipped'] else ''}")

    def count(kind):
        return left_out.get(kind, {"count": 0})["count"]

    useless = count(EMPTY) + count(SPECIAL)
    if useless > MOST_FAULTY * total:
        worst = EMPTY if count(EMPTY) >= count(SPECIAL) else SPECIAL
        raise UserError(f"{useless} of {total} records are of no use, at most 1 % may be left out; {worst}: {said(left_out[worst])}")
    if count(LONG) and arguments.on_long == "refuse":
        raise UserError(f"--max-tokens {arguments.max_tokens}: {count(LONG)} of {total} records are longer: {said(left_out[LONG])}; allow more, "
                        "or say --on-long drop (leave them out) or cut (train on truncated answers)")
    if journal["documents"] == 0:
        raise UserError(f"{arguments.inputs[0]}: every record was left out")


def notes(arguments, journal):
    counts, noted = journal["counts"], journal["noted"]
    for kind, entry in sorted(journal["left_out"].items()):
        done = "cut" if kind == LONG and arguments.on_long == "cut" else "left out"
        yield f"{entry['count']} of {counts['records']} records {done}, {kind}: {said(entry)}"
    if TOOLS in noted:
        yield (f"{noted[TOOLS]['count']} of {counts['records']} records have tools, which {'no template writes' if arguments.raw else 'the chat template does not write'}: "
               f"{said(noted[TOOLS])}")
    if REWRITTEN in noted:
        yield (f"{counts['rewritten']} answers in {noted[REWRITTEN]['count']} of {counts['records']} records are not trained on: the chat template does not mark them, or writes "
               f"them otherwise once another message follows (as where it leaves out thinking), so generation would not show them like that: {said(noted[REWRITTEN])}; "
               "to train on these, let each be the last of a record of its own")
    if counts["straddling"]:
        yield (f"{counts['straddling']} answers begin inside a token that also ends the prompt, which generation will not see cut like that: let the "
               "prompt end with a line break or a special token")
    if counts["unending"]:
        yield (f"{counts['unending']} records train on no end of turn after the last answer, so the model will not learn to stop: move "
               "{% endgeneration %} behind the token that ends a turn")


def arguments_of(argv):
    parser = Parser(prog="meristem data tokenize --chat",
                    description="Turn conversations into a token shard with a mask: loss on the assistant's tokens only. A record is a "
                                "JSON line or a row of a table: messages, prompt and completion, or alpaca.")
    add_input_arguments(parser, KINDS)
    parser.set_defaults(split_on=None, document_separator=None)  # of plain text
    tokenizing.add_arguments(parser, "PREFIX.bin, .idx, .mask, .json")
    parser.add_argument("--chat", action="store_true", required=True, help="conversations in place of plain text")
    parser.add_argument("--chat-template", type=Path, metavar="FILE", help="Jinja (default: chat_template.jinja or tokenizer_config.json beside T)")
    parser.add_argument("--raw", action="store_true", help="prompt and completion as they are, without a template")
    parser.add_argument("--prompt-key", default="prompt", metavar="KEY", help="the key that holds the prompt (default: prompt)")
    parser.add_argument("--completion-key", default="completion", metavar="KEY", help="the key that holds the answer (default: completion)")
    parser.add_argument("--end-of-text", metavar="TOKEN", help="the token that ends a record (default: the tokenizer's eos_token)")
    parser.add_argument("--train-on", choices=("assistant", "all"), default="assistant", help="all: a mask of ones, to compare with")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest record, such as data.sequence_length (default: no limit)")
    parser.add_argument("--on-long", choices=("refuse", "drop", "cut"), default="refuse", help="what becomes of longer ones (default: refuse)")
    arguments = parser.parse_args(argv)
    if arguments.max_tokens is not None and arguments.max_tokens < 2:
        raise UserError(f"--max-tokens: found {arguments.max_tokens}, allowed: at least 2")
    if arguments.raw and arguments.chat_template:
        raise UserError("--raw and --chat-template exclude each other")
    return arguments


def special_end(arguments, tokenizer, path):
    """Name and id of the token that ends a record."""
    known = special_tokens(path.parent, None).get("eos_token")
    end = end_of_text_id(tokenizer, arguments.end_of_text or known, path)
    return tokenizer.id_to_token(end), end


def job_of(arguments, reader, tokenizer_hash, settings):
    """What the shard's bytes depend on."""
    template = settings["template"]  # its time is the job's own, and stands in the journal
    return {"input files": tokenizing.files_of(reader), "--max-document-bytes": arguments.max_document_bytes, "tokenizer": tokenizer_hash,
            "chat template": template and [template[0], template[2]], "--bos": settings["begin"], "end-of-text token": settings["end"], "--train-on": arguments.train_on,
            "--prompt-key, --completion-key, --raw": list(settings["keys"]), "--max-tokens": arguments.max_tokens, "--on-long": arguments.on_long,
            "--line-ends": arguments.line_ends}


def write_shard(arguments, shard, settings):
    reader = RecordReader(arguments, settings["keys"], shard.journal["input"])
    tokenizing.write_documents(arguments, reader, shard, Recipe("chat.encoder", settings), lambda document: (document.place, document.text))
    try:
        judge(arguments, shard.journal)
    except UserError:
        shard.give_up()
        raise


def template_of(arguments, tokenizer, path, end_name, begin):
    """The template, which writes what stands before every text; None for texts as they are."""
    found = None if arguments.raw else find_template(path.parent, arguments.chat_template, special_tokens(path.parent, end_name))
    if not found or not begin:
        return found
    text = "".join(map(tokenizer.id_to_token, begin))
    template = found.beginning_with(text)
    if template is not found:
        print(f"meristem: note: the chat template {found.path} does not begin with {text}, as the tokenizer's texts do: it goes before each conversation, here and in "
              "what the template is copied to; --bos no leaves it out", file=sys.stderr)
    return template


def about_text(settings, tokenizer_hash, end_of_turn):
    """What of the manifest says how the texts were made."""
    template = settings["template"]
    return {"tokenizer": settings["tokenizer_path"], "tokenizer_hash": tokenizer_hash, "end_of_text": settings["end"],
            "begin_of_text": settings["begin"] or None, "chat_template": template and template[0], "end_of_turn": end_of_turn or None,
            "chat_template_hash": template and xxh3_bytes(template[0].encode())}


def said_in_the_end(arguments, journal, template):
    trained = journal["counts"]["trained"]
    date = f" (of {template.now:%Y-%m-%d}, which it writes)" if template and template.knows("strftime_now") else ""
    return (f"{prefix_of(arguments.out)}: {journal['documents']:,} of {journal['counts']['records']:,} records, {journal['tokens']:,} tokens, {trained:,} of them "
            f"trained on ({trained / journal['tokens']:.1%}); longest {journal['longest']:,}; "
            + (f"chat template {template.path}{date}" if template else "no chat template: prompt and completion as they are"))


@reported
def main(argv):
    arguments = arguments_of(argv)
    tokenizer, path = load_tokenizer(arguments.tokenizer)
    name, end = special_end(arguments, tokenizer, path)
    vocab_size = vocabulary_size(tokenizer)
    tokenizing.check(arguments, vocab_size, path)
    begin = begin_ids(tokenizer, path, arguments.bos)
    template = template_of(arguments, tokenizer, path, name, begin)
    end_of_turn = template.end_of_turn(tokenizer) if template else []
    keys = Keys(arguments.prompt_key, arguments.completion_key, arguments.raw or template is None)
    dtype, tokenizer_hash = np.dtype(np.uint16 if vocab_size < 65536 else np.int32), xxh3_file(path)
    settings = {"tokenizer_path": str(path), "template": template and template.settings(), "begin": begin, "end": end, "train_on": arguments.train_on,
                "keys": keys, "dtype": dtype, "max_tokens": arguments.max_tokens, "on_long": arguments.on_long, "line_ends": arguments.line_ends}
    prefix, job = prefix_of(arguments.out), job_of(arguments, RecordReader(arguments, keys), tokenizer_hash, settings)
    with ResumableShard(prefix, dtype, job, arguments.force, arguments.commit_seconds, masked=True) as shard:
        if template:
            template = template.at(shard.began)
            settings["template"] = template.settings()
        if not shard.journal["publishing"]:
            write_shard(arguments, shard, settings)
        shard.publish(vocab_size, about_text(settings, tokenizer_hash, end_of_turn))
    tokenizing.say_notes(shard, "records")
    for note in notes(arguments, shard.journal):
        print(f"meristem: note: {note}", file=sys.stderr)
    print(said_in_the_end(arguments, shard.journal, template))
    return 0
