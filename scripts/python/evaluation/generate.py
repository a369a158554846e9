"""`meristem generate CHECKPOINT --prompt TEXT`: text in, text out. The binary deals in token ids; this turns the prompt into ids with the
checkpoint's tokenizer and prints the answer as it comes. Options that are not listed here go to the binary as they are."""

import os
import subprocess
import sys
from pathlib import Path

from command import Parser, UserError, reported, utf8
from text.coverage import ids_of, say_lost
from text.streaming import TextStream
from text.tokenizer import add_bos_argument, begin_ids, begun, ending_ids, find_tokenizer, known_end_of_text, load_tokenizer, texts_of_run


def prompt_ids(tokenizer, text, begin, ends=()):
    """Ids of the prompt behind those with which every text begins; an empty one is the first of `ends`, which end a text, since a new one begins behind it."""
    ids = begun(begin, ids_of(tokenizer, "--prompt", text))
    say_lost(tokenizer, [("--prompt", text)])
    if not ids:
        end = next(iter(ends), known_end_of_text(tokenizer))
        if end is None:
            raise UserError("--prompt is empty, and the tokenizer has no end-of-text token to begin with")
        ids = [end]
    return ids


def stream_answer(checkpoint, tokenizer, path, ids, options, write):
    """Runs the binary on a prompt of ids, calls write(text) for each piece of the answer, and returns the exit code. `path`: the tokenizer's file."""
    command = [os.environ["MERISTEM_BINARY"], "generate", str(checkpoint), "--prompt-ids", ",".join(map(str, ids))]
    ends = ending_ids(checkpoint, tokenizer, path)
    if ends and not any(option.split("=")[0] == "--stop-id" for option in options):
        command += ["--stop-id", ",".join(map(str, ends))]
    with subprocess.Popen(command + options, stdout=subprocess.PIPE, text=True) as binary:
        try:
            stream = TextStream(tokenizer, ids)
            for line in binary.stdout:
                write(stream.step(int(line)))
            write(stream.flush())
        except BrokenPipeError:  # the reader has seen enough (`| head`)
            binary.kill()
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            binary.kill()
            return 130
        return binary.wait()


@reported
def main(argv):
    parser = Parser(prog="meristem generate", passes_on="generate", keeps_back=("--prompt-ids", "--serve"),
                    description="Go on from a prompt with a trained model.",
                    epilog="--prompt-ids 1,2,3 in place of --prompt prints ids and needs no tokenizer.")
    parser.add_argument("checkpoint", type=Path, help="a checkpoint (…/checkpoints/step-…) or a run folder (its newest checkpoint)")
    parser.add_argument("--prompt", required=True, help="text to go on from; may be empty")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, where the checkpoint does not say")
    add_bos_argument(parser)
    arguments, options = parser.parse_known_args(argv)
    if not arguments.checkpoint.exists():
        raise UserError(f"{arguments.checkpoint}: no such checkpoint or run folder")
    utf8("--prompt", arguments.prompt)
    tokenizer, path = load_tokenizer(arguments.tokenizer or find_tokenizer(arguments.checkpoint), read_special=True)
    begin = begin_ids(tokenizer, path, arguments.bos, texts_of_run(arguments.checkpoint)[0])
    ids = prompt_ids(tokenizer, arguments.prompt, begin, ending_ids(arguments.checkpoint, tokenizer, path))

    def write(piece):
        sys.stdout.write(piece)
        sys.stdout.flush()

    write(arguments.prompt)
    code = stream_answer(arguments.checkpoint, tokenizer, path, ids, options, write)
    if code == 0:
        write("\n")
    return code
