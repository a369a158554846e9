"""`meristem quickstart`: the whole path on real text, in the current folder. Fetches 42 works of Shakespeare, holds two of them out, trains a tokenizer,
packs shards, trains a model that grows while it trains (configs/quickstart.yaml), measures it on the held-out works and lets it write.
Everything it does can be done by hand with the commands that it prints. key=value arguments go to `meristem train`. --data-only stops once the tokens are
there, which is all that configs/mini needs of it."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import yaml

from command import Parser, UserError, reported
from evaluation.generate import prompt_ids, stream_answer
from quickstart import corpus, measures
from reports.metrics import read_metrics
from text.tokenizer import begin_ids, texts_of_run, find_tokenizer, load_tokenizer

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "configs" / "quickstart.yaml"
DATA = Path("data/quickstart")  # where the config looks for it
PROMPT = ("SCENE II. Another room in the palace.\n\n[Enter the KING and the DUKE.]\n\nKING.\nGood morrow, my lord; what news?\n\n"
          "DUKE.\nMy lord, the queen is dead.\n\nKING.\n")
KNOWN_WORDS = 0.75


class Failed(Exception):
    """A part did not succeed and has said why; holds the exit code to leave with."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


class Steps:
    """Numbered headings with the time so far."""

    def __init__(self, total):
        self.total, self.number, self.begin = total, 0, time.monotonic()

    def start(self, title):
        self.number += 1
        print(f"\n[{self.number}/{self.total}] {title}  ({self.elapsed()})", flush=True)

    def elapsed(self):
        seconds = int(time.monotonic() - self.begin)
        return f"{seconds // 60}:{seconds % 60:02d}"


def run(shown, command):
    """Runs a command whose typed form is `shown`. A first Ctrl-C reaches it too: it ends as it sees fit, and so do we."""
    print(f"$ scripts/meristem {shlex.join(shown)}", flush=True)
    child = subprocess.Popen(command)
    while True:
        try:
            code = child.wait()
            break
        except KeyboardInterrupt:
            continue
    if code != 0:
        raise Failed(code if code > 0 else 128 - code)


def run_text(*words):
    """A text command."""
    run(words, [sys.executable, str(ROOT / "scripts" / "python"), *words])


def prepare_text():
    """Writes the works as files; returns (training, held out), each {name: text}."""
    training, held_out = corpus.split(corpus.read_works(corpus.fetch()))
    corpus.write_passages(training, DATA / "texts" / "training")
    corpus.write_whole(held_out, DATA / "texts" / "held_out")
    for what, works in (("to train on", training), ("held out", held_out)):
        size = sum(len(text.encode()) for text in works.values())
        print(f"{len(works)} works {what}: {size / 1e6:.2f} MB" + (f" ({', '.join(works)})" if len(works) < 5 else ""))
    share = max(measures.shared_five_grams(text, training.values()) for text in held_out.values())
    print(f"word 5-grams of a held-out work that occur in training: at most {share:.2%}")
    print(f"text: {corpus.ATTRIBUTION}")
    return training, held_out


def tokenize(vocab_size):
    """Replaces the tokenizer and the shards of an earlier quickstart."""
    tokenizer = DATA / "tokenizer"
    run_text("data", "train-tokenizer", str(DATA / "texts" / "training"), "--vocab", str(vocab_size), "--out", str(tokenizer), "--force")
    for part in ("training", "held_out"):
        run_text("data", "tokenize", str(DATA / "texts" / part), "--tokenizer", str(tokenizer), "--out", str(DATA / part), "--force")


def free_name(name, out):
    """A run folder is never overwritten: quickstart, quickstart-2, …"""
    number, candidate = 1, name
    while (out / candidate).exists():
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def train(config, overrides):
    """Returns the run folder."""
    values = dict(argument.split("=", 1) for argument in overrides)
    out = Path(values.get("run.out", config["run"].get("out", "runs")))
    name = values.get("run.name") or free_name(config["run"]["name"], out)
    arguments = ["train", os.path.relpath(CONFIG), f"run.name={name}", *(a for a in overrides if not a.startswith("run.name="))]
    run(arguments, [os.environ["MERISTEM_BINARY"], *arguments])
    return out / name


def measure_held_out(metrics, vocab_size, training, held_out):
    """(bits per byte of the model, of xz) on the held-out works."""
    last = metrics.events_of("validation")[-1]
    tokens = json.loads((DATA / "held_out.json").read_text())["tokens"]
    joined = {part: "".join(works.values()).encode() for part, works in (("training", training), ("held_out", held_out))}
    ours = measures.bits_per_byte(last["loss"], last["targets"], tokens, vocab_size, len(joined["held_out"]))
    return ours, measures.xz_bits_per_byte(joined["training"], joined["held_out"])


def write_sample(folder):
    """The model's answer to PROMPT, printed as it comes, kept in samples/."""
    answer = []

    def show(piece):
        answer.append(piece)
        print(piece, end="", flush=True)

    options = ["--max-tokens", "190", "--temperature", "0.4", "--top-p", "0.9", "--seed", "1"]
    print(f"$ scripts/meristem generate {folder} --prompt … {shlex.join(options)}\n\n{PROMPT}", end="", flush=True)
    tokenizer, path = load_tokenizer(find_tokenizer(folder), read_special=True)
    code = stream_answer(folder, tokenizer, path, prompt_ids(tokenizer, PROMPT, begin_ids(tokenizer, path, "auto", texts_of_run(folder)[0])), options, show)
    print()
    if code != 0:
        raise Failed(code)
    (folder / "samples" / "quickstart.txt").write_text(PROMPT + "".join(answer) + "\n")
    return "".join(answer)


def draw_plots(folder):
    """The trainer draws them at its end; draws them here where it could not."""
    plot = folder / "plots" / "loss.png"
    if not plot.exists():
        run_text("plot", str(folder))
    return plot


def check(label, holds):
    print(f"  {'yes' if holds else 'NO '}  {label}")
    return holds


def summarize(folder, plot, metrics, bits, sample, training):
    """Prints what came out; returns whether all of it is as promised."""
    ours, xz = bits
    known = measures.speakers("".join(training.values()))
    spoken = measures.lines_like_speakers(sample)
    of_the_plays = len(measures.speaker_lines(sample, known))
    share = measures.known_word_share(sample, "".join(training.values()))
    growths = [event["step"] for event in metrics.events_of("growth")]
    last = metrics.steps[-1]
    print(f"  held-out bits per byte: {ours:.3f};  xz -9 given the training text first: {xz:.3f}")
    checks = [check("the model needs fewer bits than xz", ours < xz),
              check(f"it grew to {last['blocks']} blocks, after steps {', '.join(map(str, growths))} of {last['step']}", len(growths) > 0),
              check(f"the sample has speaker lines ({len(spoken)}, such as {' '.join(spoken[:3])}; {of_the_plays} with names of the plays)", len(spoken) > 0),
              check(f"{share:.0%} of its words occur in the training works (at least {KNOWN_WORDS:.0%})", share >= KNOWN_WORDS),
              check(f"the loss with its growth steps is drawn: {plot}", plot.exists())]
    return all(checks)


def farewell(folder):
    print(f"""
What was made
  {folder}/                   the run: config.yaml, metrics.jsonl, checkpoints/, samples/, tensorboard/
  {folder}/plots/loss.png     loss over the run, growth steps marked
  {DATA}/              the texts, the tokenizer, the token shards

What to try next
  scripts/meristem generate {folder} --prompt $'ROMEO.\\n'
  scripts/meristem plan configs/quickstart.yaml                  what growing saves
  scripts/meristem train configs/quickstart.yaml run.name=midas growth.operator=midas
  your own text: scripts/meristem data tokenize …, then a config of ten lines (docs/quickstart.md)""")


def prepare_data(steps):
    """Text, tokenizer and shards under DATA; returns prepare_text()'s."""
    steps.start("Text")
    texts = prepare_text()
    steps.start("Tokens")
    tokenize(yaml.safe_load(CONFIG.read_text())["model"]["vocab_size"])
    return texts


def quickstart(overrides):
    """Returns whether everything came out as promised."""
    config = yaml.safe_load(CONFIG.read_text())
    vocab_size = config["model"]["vocab_size"]
    steps = Steps(6)
    training, held_out = prepare_data(steps)
    steps.start("Training, growing on the way")
    folder = train(config, overrides)
    steps.start("Held-out works")
    metrics = read_metrics(folder)
    bits = measure_held_out(metrics, vocab_size, training, held_out)
    print(f"{bits[0]:.3f} bits per byte; xz -9: {bits[1]:.3f}")
    steps.start("A sample")
    sample = write_sample(folder)
    plot = draw_plots(folder)
    steps.start("Result")
    good = summarize(folder, plot, metrics, bits, sample, training)
    farewell(folder)
    print(f"\ndone in {steps.elapsed()}" + ("" if good else "; not all is as promised: see NO above"))
    return good


@reported
def main(argv):
    parser = Parser(prog="meristem quickstart", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="handed to `meristem train`, such as schedule.steps=100")
    parser.add_argument("--data-only", action="store_true", help="fetch and tokenize the text; train nothing")
    arguments = parser.parse_args(argv)
    for argument in arguments.overrides:
        if "=" not in argument:
            raise UserError(f"found {argument!r}, allowed: key=value")
    if arguments.data_only and arguments.overrides:
        raise UserError(f"found {arguments.overrides[0]!r}, allowed: no key=value beside --data-only, which trains nothing")
    try:
        if arguments.data_only:
            prepare_data(Steps(2))
            return 0
        return 0 if quickstart(arguments.overrides) else 1
    except Failed as failure:
        return failure.code
    except corpus.CorpusError as error:
        print(f"meristem: error: {error}", file=sys.stderr)
        return 1
