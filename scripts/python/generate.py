"""`meristem generate CHECKPOINT --prompt TEXT`: text in, text out. The binary deals in token ids; this turns the prompt into ids with the
checkpoint's tokenizer and prints the answer as it comes. Options that are not listed here go to the binary as they are."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from command_errors import UserError, reported

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")


def find_tokenizer(checkpoint):
    """The tokenizer.json that belongs to a checkpoint or run folder: beside it (a run keeps its own copy), else the one its config names."""
    folders = [checkpoint, *checkpoint.resolve().parents[:2]]
    for folder in folders:
        if (folder / "tokenizer.json").is_file():
            return folder / "tokenizer.json"
    for folder in folders:
        path = configured_tokenizer(folder)
        if path is not None and path.is_file():
            return path
    raise UserError(f"{checkpoint}: no tokenizer.json there, and its config names none that exists; give one with --tokenizer, or ids with --prompt-ids")


def configured_tokenizer(folder):
    if (folder / "state.json").is_file():
        text = json.loads((folder / "state.json").read_text()).get("config_yaml", "")
    elif (folder / "config.yaml").is_file():
        text = (folder / "config.yaml").read_text()
    else:
        return None
    name = ((yaml.safe_load(text) or {}).get("data") or {}).get("tokenizer")
    return Path(name) if name else None


def end_of_text_id(tokenizer):
    for name in END_OF_TEXT:
        found = tokenizer.token_to_id(name)
        if found is not None:
            return found
    return None


def prompt_ids(tokenizer, text):
    """Ids of the prompt; an empty prompt is the end-of-text token, after which a new text begins."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if not ids:
        end = end_of_text_id(tokenizer)
        if end is None:
            raise UserError("--prompt is empty, and the tokenizer has no end-of-text token to begin with")
        ids = [end]
    return ids


def pieces(lines, tokenizer):
    """Text of token ids that come one a line, in pieces that end on whole characters."""
    stream = DecodeStream(skip_special_tokens=True)
    for line in lines:
        piece = stream.step(tokenizer, int(line))
        if piece:
            yield piece


def stream_answer(checkpoint, tokenizer, prompt, options, write):
    """Runs the binary, calls write(text) for each piece of the answer, and returns the exit code."""
    command = [os.environ["MERISTEM_BINARY"], "generate", str(checkpoint), "--prompt-ids", ",".join(map(str, prompt_ids(tokenizer, prompt)))]
    end = end_of_text_id(tokenizer)
    if end is not None and not any(option.split("=")[0] == "--stop-id" for option in options):
        command += ["--stop-id", str(end)]
    with subprocess.Popen(command + options, stdout=subprocess.PIPE, text=True) as binary:
        try:
            for piece in pieces(binary.stdout, tokenizer):
                write(piece)
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
    parser = argparse.ArgumentParser(prog="meristem generate", allow_abbrev=False,
                                     description="Go on from a prompt with a trained model.",
                                     epilog="Also: --max-tokens N, --temperature X (0: the most likely token), --top-k N, --top-p X, --seed N, "
                                            "--stop-id ID, --plan \"0-9, (10-13)x2, 14-23\"; --prompt-ids 1,2,3 prints ids and needs no tokenizer.")
    parser.add_argument("checkpoint", type=Path, help="a checkpoint (…/checkpoints/step-…) or a run folder (its newest checkpoint)")
    parser.add_argument("--prompt", required=True, help="text to go on from; may be empty")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, where the checkpoint does not say")
    arguments, options = parser.parse_known_args(argv)
    if not arguments.checkpoint.exists():
        raise UserError(f"{arguments.checkpoint}: no such checkpoint or run folder")
    path = arguments.tokenizer or find_tokenizer(arguments.checkpoint)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise UserError(f"{path}: not a tokenizer: {error}") from None

    def write(piece):
        sys.stdout.write(piece)
        sys.stdout.flush()

    write(arguments.prompt)
    code = stream_answer(arguments.checkpoint, tokenizer, arguments.prompt, options, write)
    if code == 0:
        write("\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
