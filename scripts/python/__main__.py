"""The text commands of scripts/meristem, and what the program calls at the end of a run: python scripts/python COMMAND ARGUMENTS…

As a folder it is run by its path, so the packages here are found from any current folder and nothing there is imported by mistake."""

import importlib
import sys

# Words of a command: the module whose main(argv) it is. It is told the words behind those.
COMMANDS = {
    "quickstart": "quickstart.run",
    "data tokenize": "text.tokenizing",
    "data train-tokenizer": "text.tokenizer",
    "data verify": "text.inspection",
    "data inspect": "text.inspection",
    "data primitives": "evaluation.primitives",
    "generate": "evaluation.generate",
    "eval": "evaluation.evaluate",
    "analyze": "analysis.analyze",
    "lm-eval": "evaluation.harness",
    "sweep loops": "sweeps.loops",
    "sweep shots": "sweeps.shots",
    "sweep sft": "sweeps.sft",
    "sweep cooldown": "sweeps.cooldown",
    "plot": "reports.plot",
    "report": "reports.report",
    "study": "study.study",
    "follow": "reports.follow",
    "completion": "completion",
    "launch": "launch.run",  # `train … --nproc N`: the words of the program's command follow
    "encoding-worker": "text.encoding",  # started by `data tokenize`
}
CHAT = {"data tokenize": "chat.tokenizing", "generate": "chat.session"}  # the same commands, with --chat


def main(words):
    count = 2 if words[:1] in (["data"], ["sweep"]) else 1
    command, arguments = " ".join(words[:count]), words[count:]
    if command not in COMMANDS:
        print(f'meristem: error: unknown command "{command}"; allowed: {", ".join(COMMANDS)}', file=sys.stderr)
        return 2
    module = CHAT[command] if command in CHAT and "--chat" in arguments else COMMANDS[command]
    if module == "text.inspection":  # two commands with arguments of their own
        arguments = [words[1], *arguments]
    return importlib.import_module(module).main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
