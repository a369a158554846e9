"""Which changes of a kernel's source a mutant may be: token by token, in C++ as clang-format lays it out (binary operators stand between
spaces, template brackets do not). What can have no effect on a CPU is left alone: comments, assertions, launch bounds, unrolling, sizes of
register arrays."""
import dataclasses
import re

BINARY = {"<": ["<=", ">"], "<=": ["<", ">="], ">": [">=", "<"], ">=": [">", "<="], "==": ["!="], "!=": ["=="], "&&": ["||"], "||": ["&&"],
          "+": ["-"], "-": ["+"], "*": ["+"], "/": ["*"], "%": ["/"], "^": ["|"], "&": ["|"], "|": ["&"], "<<": [">>"], ">>": ["<<"],
          "+=": ["-="], "-=": ["+="], "*=": ["/="], "/=": ["*="], "^=": ["|="]}
LEFT_ALONE = [  # texts that hold nothing to change
    r"//[^\n]*", r"/\*.*?\*/", r'"(?:[^"\\\n]|\\.)*"', r"'(?:[^'\\\n]|\\.)+'", r"^[ ]*#[^\n]*",
    r"\bstatic_assert\([^;]*;", r"\busing\b[^;]*;", r"\btemplate <[^\n]*>\n", r"\bnamespace\b[^{]*\{", r"\bMERISTEM_KERNEL\([^)]*\)",
    r"\bRegisters<[^;(){}]*>", r"\bMERISTEM_\w+", r"\bstd::to_string\b", r"\bconst char\* const \w+\[\][^;]*;"]
KEYWORDS = {"if", "for", "while", "switch", "return", "sizeof", "defined", "alignof", "catch"}
DECLARES = re.compile(r"(?:const |constexpr |inline |struct |class |enum |return|break|continue|throw|case |else|if |for |while |do |typename )")


@dataclasses.dataclass(frozen=True)
class Change:
    file: str
    begin: int
    end: int
    text: str  # in place of [begin, end)

    def applied(self, source):
        """The changed source, with every other token in its line and, where the spaces around allow it, in its column: reports name them."""
        begin, end, text = self.begin, self.end, self.text
        old = source[begin:end]
        if "\n" in old and "\n" not in text:
            text += "\n" * old.count("\n") + " " * (len(old) - old.rfind("\n") - 1)
        elif "\n" not in old:
            while len(text) > end - begin and source[end] == " ":
                end += 1
            while len(text) > end - begin and source[begin - 1] == " " and source[begin - 2] != "\n":
                begin -= 1
            text += " " * (end - begin - len(text))
        return source[:begin] + text + source[end:]

    def spaced(self, source):
        """The unchanged source with the columns of the changed one."""
        grown = len(self.applied(source)) - len(source)
        return source[:self.end] + " " * grown + source[self.end:] if grown > 0 and "\n" not in source[self.begin:self.end] else source

    def lines(self, source):
        """(which of the equal ones, the line as it was, the line as it is), blanks folded; where a change spans lines, they make one."""
        first, last = source.rfind("\n", 0, self.begin) + 1, source.find("\n", self.end)
        before = " ".join(source[first:last].split())
        after = source[first:self.begin] + self.text + source[self.end:last]
        return sum(" ".join(line.split()) == before for line in source[:first].splitlines()) + 1, before, " ".join(after.split())


def blanked(source):
    """The source with spaces for everything that is left alone."""
    code = source
    for pattern in LEFT_ALONE:
        code = re.sub(pattern, lambda match: re.sub(r"[^\n]", " ", match[0]), code, flags=re.MULTILINE | re.DOTALL)
    return code


def closing(code, opening):
    """Where the bracket closes that opens at `opening`."""
    depth = 0
    for at in range(opening, len(code)):
        depth += (code[at] in "([{") - (code[at] in ")]}")
        if depth == 0:
            return at
    return len(code)


def arguments(code, opening):
    """(begin, end) of a call's arguments."""
    found, begin, depth, end = [], opening + 1, 0, closing(code, opening)
    for at in range(opening + 1, end + 1):
        here = code[at]
        depth += here in "([{" or (here == "<" and code[at - 1] != " " and code[at + 1] not in " =")
        depth -= (here in ")]}" and at < end) or (here == ">" and code[at - 1] not in " -" and depth > 0)
        if at == end or (here == "," and depth == 0):
            found.append((begin + len(code[begin:at]) - len(code[begin:at].lstrip()), at))
            begin = at + 1
    return found


def tokens(code):
    for match in re.finditer(r"(?<=\s)(?:<<|>>|&&|\|\||[-+*/^<>=!]=|[-+*/%^&|<>])(?=\s)", code):
        for text in BINARY.get(match[0], []):
            yield match.start(), match.end(), text
    for match in re.finditer(r"(?<![\w.])\d+(?![\w.])", code):
        yield match.start(), match.end(), str(int(match[0]) + 1)
        if int(match[0]) > 0:
            yield match.start(), match.end(), str(int(match[0]) - 1)
    for match in re.finditer(r"\btrue\b|\bfalse\b", code):
        yield match.start(), match.end(), "false" if match[0] == "true" else "true"
    for match in re.finditer(r"(?<=[\s(])[-!](?=[a-z(])", code):
        yield match.start(), match.end(), ""


def conditions(code):
    """Conditions made constant."""
    for match in re.finditer(r"\bif \(", code):
        for text in ("true", "false"):
            yield match.end(), closing(code, match.end() - 1), text


def calls(code, source):
    """Neighbouring arguments swapped."""
    for match in re.finditer(r"\b([A-Za-z_]\w*)((?:<[^;(){}]*?>)?)\(", code):
        opening = match.end() - 1
        if match[1] in KEYWORDS:
            continue
        given = arguments(code, opening)
        if any(re.match(r"(?:const )?[\w:]+(?:<.*>)?[&*]* [&*]*\w+(?:\[.*\])?$", " ".join(code[b:e].split())) for b, e in given):
            continue  # a declaration
        for (b1, e1), (b2, e2) in zip(given, given[1:]):
            first, second = source[b1:e1], source[b2:e2]
            if first.strip() and second.strip() and first.split() != second.split() and "//" not in source[b1:e2]:
                yield b1, e2, second + source[e1:b2] + first


def statements(code):
    """Removed calls and assignments."""
    for match in re.finditer(r"(?:(?<=[;{}])|(?<=\)))(\s+)([A-Za-z_][^;{}]*);", code):
        text = match[2]
        if DECLARES.match(text) or not (re.match(r"[\w:]+(?:<[^;]*?>)?\(", text) or re.match(r"[\w.]+(?:\[[^;]*?\])*(?:\.\w+)? [-+*/^]?= ", text)):
            continue
        if code[match.start() - 1] == ")" and "\n" not in match[1] and not re.search(r"\b(?:if|for|while)\b[^;{}\n]*(?:;[^;{}\n]*){0,2}$",
                                                                                       code[:match.start()]):
            continue
        yield match.start(2), match.end(2), ""


def changes(file, source):
    """Every change, each once, in the order of the source."""
    code = blanked(source)
    found = {}
    for drawn in (tokens(code), conditions(code), calls(code, source), statements(code)):
        for begin, end, text in drawn:
            change = Change(file, begin, end, text)
            found.setdefault("".join(change.applied(source).split()), change)
    return sorted(found.values(), key=lambda change: (change.begin, change.end, change.text))
