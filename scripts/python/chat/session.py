"""`meristem generate CHECKPOINT --chat`: a conversation in the terminal, or line by line in a pipe. The chat template makes the prompt, the
binary is started once and answers token ids with token ids."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

from chat.encoder import Encoder
from chat.template import find_template
from command import Parser, UserError, reported, utf8
from text.coverage import ids_of, say_lost
from text.streaming import TextStream
from text.tokenizer import add_bos_argument, begin_ids, end_of_text_id, ending_ids, find_tokenizer, load_tokenizer, own_folders, special_tokens, texts_of_run

HELP = "/reset begins a new conversation, /quit leaves (so does the end of the input); Ctrl-C stops an answer"


class Binary:
    """`meristem generate --serve`: started at the first question, and again after an answer was cut off."""

    def __init__(self, command):
        self.command, self.process = command, None

    def ask(self, ids):
        """Yields the answer's ids as they come."""
        if self.process is None:
            # A session of its own: Ctrl-C stops the answer, which ends this process; it must not meet it in the middle of a load.
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            self.process.stdin.write(",".join(map(str, ids)) + "\n")
            self.process.stdin.flush()
            for line in self.process.stdout:
                if line.strip() == "end":
                    return
                yield int(line)
        except BrokenPipeError:
            pass
        raise SystemExit(self.process.wait() or 1)  # it has said why

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def lines(terminal):
    """What the user says."""
    sys.stdin.reconfigure(errors="surrogateescape")
    for number in itertools.count(1):
        try:
            line = utf8(f"line {number} of the input", input("> " if terminal else ""))
        except EOFError:
            return
        except KeyboardInterrupt:
            print()
            return
        yield line.strip()


class Conversation:
    def __init__(self, tokenizer, template, end, binary, system):
        self.tokenizer, self.template, self.binary = tokenizer, template, binary
        self.encoder = Encoder(tokenizer, template, [], end, "assistant")
        self.first = [{"role": "system", "content": system}] if system else []
        self.messages = list(self.first)

    def reset(self):
        self.messages = list(self.first)

    def answer(self, text, write):
        """Writes the answer to `text` piece by piece and remembers it. False where it was stopped."""
        found = self.encoder.special and self.encoder.special.search(text)
        if found:
            raise UserError(f"the text holds the special token {found[0]}, which would be read as one")
        self.messages.append({"role": "user", "content": text})
        prompt, _ = self.template.render("the conversation", self.messages, add_generation_prompt=True)
        ids = ids_of(self.tokenizer, "the conversation", prompt)
        say_lost(self.tokenizer, [("what you say", text)])
        stream, said, whole = TextStream(self.tokenizer, ids), "", True
        try:
            for token in self.binary.ask(ids):
                piece = stream.step(token)
                said += piece
                write(piece)
        except KeyboardInterrupt:
            self.binary.stop()
            whole = False
        said += (rest := stream.flush())
        write(rest)
        self.messages.append({"role": "assistant", "content": said})
        return whole


def talk(conversation, terminal):
    def write(piece):
        sys.stdout.write(piece)
        sys.stdout.flush()

    if terminal:
        print(HELP)
    for line in lines(terminal):
        if line == "/quit":
            break
        if line == "/reset":
            conversation.reset()
        elif line.startswith("/"):
            print(f"{line.split()[0]}: no such command; {HELP}", file=sys.stderr)
        elif line:
            try:
                whole = conversation.answer(line, write)
            except UserError as error:
                if not terminal:
                    raise
                print(f"meristem: {error}", file=sys.stderr)
                continue
            write("\n" if whole else " …\n")


def template_of(arguments, tokenizer_path, tokens):
    """The one that is given, else the one that the run was trained with, else the tokenizer's."""
    own = next((folder for folder in own_folders(arguments.checkpoint) if (folder / "chat_template.jinja").is_file()), tokenizer_path.parent)
    template = find_template(own, arguments.chat_template, tokens)
    if template is None:
        raise UserError(f"{tokenizer_path.parent}: no chat template beside the tokenizer; give one with --chat-template")
    return template


@reported
def main(argv):
    parser = Parser(prog="meristem generate --chat", passes_on="generate", keeps_back=("--prompt-ids", "--prompts-ids", "--batch", "--serve", "--stop-id"),
                    description="Talk with a trained model.", epilog=HELP)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint or a run folder (its newest checkpoint)")
    parser.add_argument("--chat", action="store_true", required=True)
    parser.add_argument("--system", metavar="TEXT", help="a system message before the conversation")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, where the checkpoint does not say")
    parser.add_argument("--chat-template", type=Path, metavar="FILE", help="Jinja (default: the one that the run was trained with, "
                        "else the one beside the tokenizer)")
    add_bos_argument(parser)
    arguments, options = parser.parse_known_args(argv)
    if any(option.split("=")[0] in ("--prompt", "--prompts", "--prompt-ids", "--prompts-ids", "--stop-id") for option in options):
        raise UserError("--chat takes what you say from the input; --prompt, --prompt-ids and --stop-id do not go with it")
    if not arguments.checkpoint.exists():
        raise UserError(f"{arguments.checkpoint}: no such checkpoint or run folder")
    utf8("--system", arguments.system or "")
    tokenizer, path = load_tokenizer(arguments.tokenizer or find_tokenizer(arguments.checkpoint), read_special=True)
    begin, end = texts_of_run(arguments.checkpoint)
    if end is None:
        end = end_of_text_id(tokenizer, special_tokens(path.parent, None).get("eos_token"), path)
    template = template_of(arguments, path, special_tokens(path.parent, tokenizer.id_to_token(end)))
    begin = begin_ids(tokenizer, path, arguments.bos, begin)
    if begin:
        template = template.beginning_with("".join(map(tokenizer.id_to_token, begin)))
    command = [os.environ["MERISTEM_BINARY"], "generate", str(arguments.checkpoint), "--serve", "--stop-id",
               ",".join(map(str, sorted({end, *ending_ids(arguments.checkpoint, tokenizer, path), *template.end_of_turn(tokenizer)}))), *options]
    binary = Binary(command)
    try:
        talk(Conversation(tokenizer, template, end, binary, arguments.system), sys.stdin.isatty() and sys.stdout.isatty())
    finally:
        binary.stop()
    return 0
