"""`meristem completion bash|zsh`: prints a script that completes commands and options. Both are asked of the parsers that read them: of each text command
here, and of the program, which describes its own. Nothing is listed twice, so nothing can be forgotten."""

import argparse
import importlib.util
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from command import Parser, reported

INTERNAL = {"launch", "encoding-worker"}
OF_TWO_WORDS = {"data": "token shards", "sweep": "one question, asked of a row of settings"}  # help of the first word


@dataclass
class Command:
    help: str = ""
    options: dict = field(default_factory=dict)  # {"--plan": help}
    choices: dict = field(default_factory=dict)  # {"--to": [words]}, and of the words without an option under ""

    def add(self, names, text, choices=()):
        for name in names:
            self.options.setdefault(name, in_one_line(text))
            if choices:
                self.choices[name] = list(map(str, choices))


class Captured(BaseException):
    """Carries a parser out of the main() that made it; no `except Exception` stops it."""

    def __init__(self, parser):
        super().__init__()
        self.parser = parser


def parser_of(module, arguments):
    """The parser that a module's main() would read its arguments with."""
    original = argparse.ArgumentParser.parse_known_args

    def capture(parser, *_, **__):
        raise Captured(parser)

    argparse.ArgumentParser.parse_known_args = capture
    try:
        importlib.import_module(module).main(arguments)
    except Captured as caught:
        return caught.parser
    finally:
        argparse.ArgumentParser.parse_known_args = original
    raise AssertionError(f"{module}.main read no arguments")


def in_one_line(text):
    """The first sentence of a help."""
    return " ".join((text or "").split()).split(". ")[0]


def add_parser(command, parser, said):
    """`said`: words of the command that stand among the parser's own arguments."""
    command.help = command.help or in_one_line(parser.description)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word in said:
                add_parser(command, action.choices[word], ())
            continue
        text = "" if action.help == argparse.SUPPRESS else (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
        if action.option_strings:
            command.add(action.option_strings, text, action.choices or ())
        elif action.choices:
            command.choices[""] = list(map(str, action.choices))


def all_commands(text_commands, with_chat, program):
    """{words of the command: Command}. `text_commands`: the table of __main__; `program`: what the binary says of itself."""
    commands = {}
    for words, module in text_commands.items():
        if words in INTERNAL:
            continue
        arguments = words.split()[1:] if module == "text.inspection" else []
        for each in (module, with_chat.get(words)):
            if each:
                add_parser(commands.setdefault(words, Command()), parser_of(each, arguments), arguments)
    for words, said in program.items():
        command = commands.setdefault(words, Command())
        command.help = command.help or in_one_line(said["help"])
        for option in said["options"]:
            command.add(option["names"], option["help"])
    for name in importlib.import_module("launch.run").OPTIONS:
        commands["train"].add([name], "of several ranks on this machine")
    return dict(sorted(commands.items()))


def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


def cases(commands, line):
    """Branches of a shell's `case`; line(words, command) is what one does, None for none."""
    return "\n".join(f"    {quoted(words)}) {said} ;;" for words, command in commands.items() if (said := line(words, command)))


def choice_cases(commands, line):
    found = [(f"{words} {option}".rstrip(), values) for words, command in commands.items() for option, values in command.choices.items()]
    return "\n".join(f"    {quoted(place)}) {line(values)} ;;" for place, values in found)


def first_words(commands):
    """{word: help} of what can stand first, and {word: {second: help}}."""
    first, second = {}, {}
    for words, command in commands.items():
        head, _, tail = words.partition(" ")
        first.setdefault(head, command.help if not tail else OF_TWO_WORDS[head])
        if tail:
            second.setdefault(head, {})[tail] = command.help
    return first, second


BASH = """\
# Completion of meristem for bash, written by `scripts/meristem completion bash`. Works for meristem, scripts/meristem and any path to it.
_meristem() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}} words=
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W {first} -- "$word"))
    return
  fi
  case $command in
{second}
  esac
  [[ $before == -* ]] || before=
  [[ $word == -* ]] || case "$command${{before:+ $before}}" in
{choices}
  esac
  if [[ -z $words && $word == -* ]]; then
    case $command in
{options}
    esac
  fi
  if [[ -n $words ]]; then COMPREPLY=($(compgen -W "$words" -- "$word")); fi # nothing: names of files
}}
complete -o default -F _meristem meristem
"""
SECOND_BASH = """\
    {head})
      if ((COMP_CWORD == 2)); then
        COMPREPLY=($(compgen -W {words} -- "$word"))
        return
      fi
      command+=" ${{COMP_WORDS[2]}}"
      ;;"""


def bash(commands):
    first, second = first_words(commands)
    return BASH.format(first=quoted(" ".join(first)), second="\n".join(SECOND_BASH.format(head=head, words=quoted(" ".join(tails))) for head, tails in second.items()),
                       choices=choice_cases(commands, lambda values: f"words={quoted(' '.join(values))}"),
                       options=cases(commands, lambda _, command: f"words={quoted(' '.join(command.options))}" if command.options else None))


ZSH = """\
#compdef meristem
# Completion of meristem for zsh, written by `scripts/meristem completion zsh`. Works for meristem, scripts/meristem and any path to it.
_meristem() {{
  local command=${{words[2]}} before=${{words[CURRENT-1]}}
  local -a found
  if (( CURRENT == 2 )); then
    found=({first})
    _describe command found
    return
  fi
  case $command in
{second}
  esac
  [[ $before == -* ]] || before=
  [[ ${{words[CURRENT]}} == -* ]] || case "$command${{before:+ $before}}" in
{choices}
  esac
  if (( $#found )); then _describe value found; return; fi
  if [[ ${{words[CURRENT]}} == -* ]]; then
    case $command in
{options}
    esac
    _describe -o option found
  else
    _files
  fi
}}
if [[ $funcstack[1] == _meristem ]]; then _meristem "$@"; else compdef _meristem meristem; fi
"""
SECOND_ZSH = """\
    {head})
      if (( CURRENT == 3 )); then
        found=({words})
        _describe command found
        return
      fi
      command+=" ${{words[3]}}"
      ;;"""


def described(entries):
    """zsh's NAME:DESCRIPTION."""
    return " ".join(quoted(name.replace(":", "\\:") + (f":{text.replace(':', chr(92) + ':')}" if text else "")) for name, text in entries.items())


def zsh(commands):
    first, second = first_words(commands)
    return ZSH.format(first=described(first), second="\n".join(SECOND_ZSH.format(head=head, words=described(tails)) for head, tails in second.items()),
                      choices=choice_cases(commands, lambda values: f"found=({' '.join(map(quoted, values))})"),
                      options=cases(commands, lambda _, command: f"found=({described(command.options)})" if command.options else None))


def described_by_program():
    return json.loads(subprocess.run([os.environ["MERISTEM_BINARY"], "describe-commands"], stdout=subprocess.PIPE, check=True).stdout)


def table_of_commands():
    """scripts/python as it is run."""
    spec = importlib.util.spec_from_file_location("text_commands_table", Path(__file__).with_name("__main__.py"))
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    return table


@reported
def main(argv):
    parser = Parser(prog="meristem completion", description="Print a script that completes commands and options in a shell.",
                    epilog="bash: scripts/meristem completion bash >~/.local/share/bash-completion/completions/meristem. "
                           "zsh: the same with zsh into a file _meristem in a folder of $fpath.")
    parser.add_argument("shell", choices=("bash", "zsh"))
    shell = parser.parse_args(argv).shell
    entry = table_of_commands()
    commands = all_commands(entry.COMMANDS, entry.CHAT, described_by_program())
    print({"bash": bash, "zsh": zsh}[shell](commands), end="")
    return 0
