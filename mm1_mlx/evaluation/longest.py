"""Find the longest beginning of a text that one of many rules describes, as lexer generators do.

Python's ``re`` takes the first alternative that fits. A lexer takes the longest, and of equally long ones the rule
that stands first. So the rules become one finite automaton here, whose states are made when a text first reaches
them. A rule is written almost as for ``re``:

- ``( ) | . ? * + {2,4} [a-z] [^a-z] \\n \\r \\t \\u2019`` and a backslash before a sign mean what they mean there, but a
  dot stands for line breaks too;
- a letter outside brackets stands for both its cases, one inside brackets for itself alone;
- a backslash and another lower-case letter name a set of characters that the caller gives.

Source: K. Thompson, "Regular Expression Search Algorithm", Communications of the ACM 11 (1968).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Contains = Callable[[str], bool]  # tells whether a character belongs to a set
SIGN = r"\\u[0-9a-f]{4}|\\?."
PIECES = re.compile(rf"\[\^?(?:\\.|[^\]\\])+\]|\{{\d+(?:,\d+)?\}}|{SIGN}", re.DOTALL)
ITEMS = re.compile(rf"({SIGN})-({SIGN})|({SIGN})", re.DOTALL)
OTHER_CASES = {"i": "iIıİ", "k": "kK\u212a", "s": "sSſ"}  # the last of k's is the sign for kelvin


class Match(NamedTuple):
    """The rule that fits longest, and where the text that it describes ends."""

    rule: int
    end: int


@dataclass(eq=False)
class Node:
    """A place in the rules: the nodes it leads to without a character, and the one it leads to with one."""

    free: list["Node"] = field(default_factory=list)
    on: Contains | None = None
    to: "Node | None" = None
    rule: int | None = None  # the rule that ends here


@dataclass(eq=False)
class State:
    """All places in the rules that the same characters lead to."""

    nodes: frozenset[Node]
    rule: int | None  # the first rule that ends here
    after: dict[str, "State | None"] = field(default_factory=dict)


class Longest:
    """An automaton of rules in their order of precedence.

    Args:
        rules: The rules, written as the module says.
        sets: Sets of characters by name, a lower-case letter each.
    """

    def __init__(self, rules: Sequence[str], sets: Mapping[str, Contains]) -> None:
        self._states: dict[frozenset[Node], State] = {}
        self._first = self._find_state(
            [_Parser(rule, sets).nodes(Node(rule=n)) for n, rule in enumerate(rules)]
        )

    def match(self, text: str, start: int) -> Match | None:
        """Return the longest match that begins at ``start``, or ``None``."""
        found, state = None, self._first
        for end in range(start, len(text)):
            char = text[end]
            state = state.after[char] if char in state.after else self._follow(state, char)
            if state is None:
                break
            if state.rule is not None:
                found = Match(state.rule, end + 1)
        return found

    def matches(self, text: str, start: int, end: int) -> bool:
        """Tell whether a rule describes exactly the text from ``start`` to ``end``."""
        found = self.match(text[start:end], 0)
        return found is not None and found.end == end - start

    def _follow(self, state: State, char: str) -> State | None:
        nodes = [
            node.to for node in state.nodes if node.on is not None and node.to is not None and node.on(char)
        ]
        state.after[char] = self._find_state(nodes) if nodes else None
        return state.after[char]

    def _find_state(self, nodes: list[Node]) -> State:
        reached = set()
        while nodes:
            node = nodes.pop()
            if node not in reached:
                reached.add(node)
                nodes.extend(node.free)
        kept = frozenset(node for node in reached if node.on is not None or node.rule is not None)
        if kept not in self._states:
            rules = [node.rule for node in kept if node.rule is not None]
            self._states[kept] = State(kept, min(rules, default=None))
        return self._states[kept]


Build = Callable[[Node], Node]  # given the node after a part of a rule, makes the node before it


class _Parser:
    """Reads one rule by recursive descent."""

    def __init__(self, rule: str, sets: Mapping[str, Contains]) -> None:
        self.rule = rule
        self.pieces = PIECES.findall(rule)[::-1]
        self.sets = sets

    def nodes(self, last: Node) -> Node:
        """Return the first node of the rule, which leads to ``last`` at its end."""
        build = self.read_alternatives()
        if self.pieces:
            raise ValueError(f"a bracket closes too early in the rule {self.rule!r}")
        return build(last)

    def next_is(self, *pieces: str) -> bool:
        return bool(self.pieces) and self.pieces[-1] in pieces

    def read_alternatives(self) -> Build:
        choices = [self.read_sequence()]
        while self.next_is("|"):
            self.pieces.pop()
            choices.append(self.read_sequence())
        return choices[0] if len(choices) == 1 else lambda last: Node(free=[build(last) for build in choices])

    def read_sequence(self) -> Build:
        parts = []
        while self.pieces and not self.next_is("|", ")"):
            parts.append(self.read_repeats(self.read_single()))

        def build(last: Node) -> Node:
            for part in reversed(parts):
                last = part(last)
            return last

        return build

    def read_single(self) -> Build:
        piece = self.pieces.pop()
        if piece == "(":
            inside = self.read_alternatives()
            if not self.next_is(")"):
                raise ValueError(f"a bracket is never closed in the rule {self.rule!r}")
            self.pieces.pop()
            return inside
        contains = self.read_set(piece)
        return lambda last: Node(on=contains, to=last)

    def read_repeats(self, part: Build) -> Build:
        counts = {"?": (0, 1), "*": (0, None), "+": (1, None)}
        if self.next_is(*counts):
            least, most = counts[self.pieces.pop()]
        elif self.pieces and re.fullmatch(r"\{.+\}", self.pieces[-1]):
            numbers = [int(number) for number in self.pieces.pop()[1:-1].split(",")]
            least, most = numbers[0], numbers[-1]
        else:
            return part

        def build(last: Node) -> Node:
            first = last
            if most is None:
                first = Node(free=[last])
                first.free.append(part(first))
            for _ in range((most or least) - least):
                first = Node(free=[part(first), last])
            for _ in range(least):
                first = part(first)
            return first

        return build

    def read_set(self, piece: str) -> Contains:
        """Return the set of characters that a piece of a rule means."""
        if piece == ".":
            return lambda char: True
        if len(piece) == 1:
            return frozenset(OTHER_CASES.get(piece.lower(), piece.lower() + piece.upper())).__contains__
        if piece[0] == "\\":
            return self.sets[piece[1:]] if piece[1:] in self.sets else _read_sign(piece).__eq__
        negated = piece[1] == "^"
        named, ranges = [], []
        for low, high, one in ITEMS.findall(piece[2:-1] if negated else piece[1:-1]):
            if one[1:] in self.sets:
                named.append(self.sets[one[1:]])
            else:
                ranges.append((_read_sign(low or one), _read_sign(high or one)))
        return lambda char: (
            negated
            != (any(low <= char <= high for low, high in ranges) or any(inside(char) for inside in named))
        )


def _read_sign(piece: str) -> str:
    """Return the character that a sign, or an escape such as ``\\n``, means."""
    if piece.startswith(r"\u"):
        return chr(int(piece[2:], 16))
    return {r"\n": "\n", r"\r": "\r", r"\t": "\t"}.get(piece, piece[-1])
