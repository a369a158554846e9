"""`meristem generate CHECKPOINT --prompt TEXT`: text in, text out. The binary deals in token ids; this turns the prompt into ids with the
checkpoint's tokenizer and prints the answer as it comes; with --prompts FILE it prints a JSON line for each of many, in the file's order. Options that are
not listed here go to the binary as they are."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from command import Bar, Parser, UserError, read_utf8, reported, utf8
from evaluation.items import encodings_of
from text.coverage import ids_of, say_lost
from text.documents import json_lines
from text.streaming import TextStream
from text.tokenizer import add_bos_argument, begin_ids, begun, ending_ids, find_tokenizer, known_end_of_text, load_tokenizer, texts_of_run


def prompt_ids(tokenizer, text, begin, ends=()):
    """Ids of the prompt behind those with which every text begins; an empty one is the first of `ends`, which end a text, since a new one begins behind it."""
    ids = ids_of(tokenizer, "--prompt", text)
    say_lost(tokenizer, [("--prompt", text)])
    return begun_or_end(tokenizer, "--prompt", ids, begin, ends)


def begun_or_end(tokenizer, place, ids, begin, ends):
    ids = begun(begin, ids)
    if not ids:
        end = next(iter(ends), known_end_of_text(tokenizer))
        if end is None:
            raise UserError(f"{place} is empty, and the tokenizer has no end-of-text token to begin with")
        ids = [end]
    return ids


def command_of(checkpoint, prompt, ends, options):
    command = [os.environ["MERISTEM_BINARY"], "generate", str(checkpoint), *prompt]
    if ends and not any(option.split("=")[0] == "--stop-id" for option in options):
        command += ["--stop-id", ",".join(map(str, ends))]
    return command + options


def read_prompts(path):
    """(places, records) of a file with many prompts: .txt, a prompt a line, or JSON lines {"prompt": text, …}; blank lines are none."""
    if not path.is_file():
        raise UserError(f"--prompts: {path}: no such file")
    if path.suffix == ".txt":
        found = [(f"{path}:{number}", {"prompt": line.rstrip("\r")}) for number, line in enumerate(read_utf8(path).split("\n"), 1) if line.strip()]
    else:
        found = list(json_lines(path))
    for place, record in found:
        prompt = record.get("prompt")
        if not isinstance(prompt, str):
            raise UserError(f"{place}: " + (f"prompt: found {type(prompt).__name__}; allowed: a text" if "prompt" in record else
                                            f"found {', '.join(sorted(map(ascii, record))) or 'no key'}; allowed: prompt, and keys that the answer keeps"))
        utf8(f"{place}: prompt", prompt)
        if "answer" in record:
            raise UserError(f"{place}: has the key answer, where the answer would stand")
    if not found:
        raise UserError(f"{path}: has no prompt")
    return [place for place, _ in found], [record for _, record in found]


def reading(command, read):
    """Runs the binary, calls read(its output, by lines), and returns the exit code."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as binary:
        try:
            read(binary.stdout)
        except BrokenPipeError:  # the reader has seen enough (`| head`)
            binary.kill()
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            binary.kill()
            return 130
        return binary.wait()


def answer_all(checkpoint, tokenizer, path, places, records, begin, options, write):
    """Calls write(line) with a JSON line for each record, its answer behind what is there, in their order; returns the exit code."""
    ends = ending_ids(checkpoint, tokenizer, path)
    texts = [record["prompt"] for record in records]
    prompts = [begun_or_end(tokenizer, place, encoding.ids, begin, ends) for place, encoding in zip(places, encodings_of(tokenizer, places, texts))]
    say_lost(tokenizer, zip(places, texts))
    bar = Bar("answers written")

    def read(lines):
        waiting, written = {}, 0
        try:
            for line in lines:
                answered = json.loads(line)
                waiting[answered["prompt"]] = answered["answer"]
                bar.show(written + len(waiting), len(records))
                while written in waiting:
                    stream, ids = TextStream(tokenizer, prompts[written]), waiting.pop(written)
                    text = "".join([*map(stream.step, ids), stream.flush()])
                    bar.clear()
                    write(json.dumps({**records[written], "answer": text}, ensure_ascii=False) + "\n")
                    written += 1
        finally:
            bar.clear()

    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps({"prompt": ids}) + "\n" for ids in prompts)
        file.flush()
        return reading(command_of(checkpoint, ["--prompts-ids", file.name], ends, options), read)


def stream_answer(checkpoint, tokenizer, path, ids, options, write):
    """Runs the binary on a prompt of ids, calls write(text) for each piece of the answer, and returns the exit code. `path`: the tokenizer's file."""
    stream = TextStream(tokenizer, ids)

    def read(lines):
        for line in lines:
            write(stream.step(int(line)))
        write(stream.flush())

    return reading(command_of(checkpoint, ["--prompt-ids", ",".join(map(str, ids))], ending_ids(checkpoint, tokenizer, path), options), read)


@reported
def main(argv):
    parser = Parser(prog="meristem generate", passes_on="generate", keeps_back=("--prompt-ids", "--prompts-ids", "--serve"),
                    description="Go on from a prompt with a trained model.",
                    epilog="--prompt-ids 1,2,3 in place of --prompt prints ids and needs no tokenizer.")
    parser.add_argument("checkpoint", type=Path, help="a checkpoint (…/checkpoints/step-…) or a run folder (its newest checkpoint)")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--prompt", help="text to go on from; may be empty")
    given.add_argument("--prompts", type=Path, metavar="FILE", help='many: .txt with one a line, or JSON lines {"prompt": text, …}; the same lines come out, with '
                       '"answer" (see --batch)')
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, where the checkpoint does not say")
    add_bos_argument(parser)
    arguments, options = parser.parse_known_args(argv)
    if not arguments.checkpoint.exists():
        raise UserError(f"{arguments.checkpoint}: no such checkpoint or run folder")
    places, records = read_prompts(arguments.prompts) if arguments.prompts else ([], [])
    utf8("--prompt", arguments.prompt or "")
    tokenizer, path = load_tokenizer(arguments.tokenizer or find_tokenizer(arguments.checkpoint), read_special=True)
    begin = begin_ids(tokenizer, path, arguments.bos, texts_of_run(arguments.checkpoint)[0])

    def write(piece):
        sys.stdout.write(piece)
        sys.stdout.flush()

    if arguments.prompts:
        return answer_all(arguments.checkpoint, tokenizer, path, places, records, begin, options, write)
    ids = prompt_ids(tokenizer, arguments.prompt, begin, ending_ids(arguments.checkpoint, tokenizer, path))
    write(arguments.prompt)
    code = stream_answer(arguments.checkpoint, tokenizer, path, ids, options, write)
    if code == 0:
        write("\n")
    return code
