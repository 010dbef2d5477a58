"""Render chat templates, which are programs of strangers: bounded in steps, in time and in what they make.

Templates run in jinja's sandbox, with transformers' additions. That sandbox keeps them from the machine's files; this
one also counts every step of a loop, every call, and every text and list that is made, so that no template hangs the
process or fills its memory.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

from jinja2 import Template, TemplateError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from mm1_mlx.errors import PromptError

MAX_STEPS = 1_000_000  # of loops, and calls
MAX_SIZE = 1_000_000  # characters and entries of anything made, besides what the messages hold
MANY = 20  # times that, for all that is made together
PART = 10  # characters that an entry counts for, where all parts of a value are counted
MAX_WIDTH = 1000  # of padding, indents and precisions
MAX_BITS = 100_000  # of a number
MAX_SECONDS = 20.0
WIDE = {"center", "indent", "ljust", "rjust", "round", "tojson", "wordwrap", "zfill"}
UNSAFE = {"expandtabs", "format_map", "maketrans", "translate"}  # methods of text that no chat template needs
LEFT_OUT = {"batch", "pprint", "slice", "urlize", "xmlattr"}  # filters that none needs
PLAIN = str | int | float | None | Undefined
COLLECTIONS = list | tuple | set | frozenset


def render_template(template: str, **values: Any) -> str:
    """Return what a chat template makes of ``values``.

    Raises:
        PromptError: the template is wrong, refuses the values, or does not end within its limits.
    """
    budget = _Budget(10**10)
    budget.size = MAX_SIZE + 16 * budget.weigh(list(values.values()))
    token = _BUDGET.set(budget)
    try:
        return _compile(template).render(**values)
    except Exception as error:  # a template can raise any error of Python's
        told = " ".join(str(error).split())[:200] or type(error).__name__
        if not isinstance(error, TemplateError):
            told = f"{type(error).__name__}: {told}"
        raise PromptError(f"the model's chat template refuses these messages: {told}") from None
    finally:
        _BUDGET.reset(token)


class _Budget:
    """What one rendering has used of its limits; past one, SecurityError is raised."""

    def __init__(self, size: int):
        self.size = size
        self.steps = self.made = 0
        self.end = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS or time.monotonic() > self.end:
            raise SecurityError(f"it does not end within {MAX_STEPS:,} steps and {MAX_SECONDS:.0f} seconds")

    def require(self, size: int) -> None:
        if size > self.size:
            raise SecurityError(f"it makes more than {self.size:,} characters or entries")

    def charge(self, value: Any) -> Any:
        """Return a value that was made, once its size is counted."""
        if isinstance(value, str | Mapping | COLLECTIONS):
            self.require(len(value))
            self.made += len(value)
            if self.made > MANY * self.size:
                raise SecurityError(f"it makes more than {MANY * self.size:,} characters or entries in all")
        return value

    def weigh(self, value: Any) -> int:
        """Return how many characters and entries a value has, each part counted as often as it occurs."""
        total, waiting = 0, [value]
        while waiting:
            one = waiting.pop()
            total += PART + (len(one) if isinstance(one, str) else 0)
            if isinstance(one, Mapping):
                waiting += [*one.keys(), *one.values()]
            elif isinstance(one, COLLECTIONS):
                waiting += one
            self.require(total + PART * len(waiting))
        return total


_BUDGET: ContextVar[_Budget] = ContextVar("budget")


def _count_steps(items: Any) -> Iterator[Any]:
    for item in items:
        _BUDGET.get().step()
        yield item


def _weigh_made(value: Any) -> Any:
    """Return a list or mapping that a template made, once all of its parts are counted."""
    if isinstance(value, Mapping | COLLECTIONS):
        _BUDGET.get().made += _BUDGET.get().weigh(value)
    return _BUDGET.get().charge(value)


def _write(value: Any) -> str:
    """Return a value as text; one that a template cannot want to write is only named."""
    if isinstance(value, PLAIN):
        return str(value)
    if isinstance(value, Mapping | COLLECTIONS):
        _BUDGET.get().weigh(value)
        return str(value)
    return f"<{type(value).__name__}>"


def _concat(parts: Iterable[str]) -> str:
    """Return the texts joined, as jinja does with the output of every block and macro."""
    kept, total = [], 0
    for part in parts:
        total += len(part)
        _BUDGET.get().require(total)
        kept.append(part)
    return _BUDGET.get().charge("".join(kept))


def _to_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return _concat(encoder.iterencode(value))


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _format_now(pattern: str) -> str:
    _require_plain_widths(pattern)
    return datetime.now().strftime(pattern)


def _require_plain_widths(pattern: Any) -> None:
    """Refuse a format with widths of many digits, or widths from its arguments."""
    if isinstance(pattern, str) and re.search(r"\d{4}|%[^%a-zA-Z]*\*|\{[^{}]*\{", pattern):
        raise SecurityError("it formats text with a width that is not plain and small")


def _bound(name: str, function: Callable[..., Any], owner: tuple[Any, ...] = ()) -> Callable[..., Any]:
    """Return a filter, or a method of the text ``owner``, that makes no more than the budget allows."""

    leading = int(hasattr(function, "jinja_pass_arg"))  # jinja itself gives such a filter one more argument

    @wraps(function)
    def bounded(*args: Any, **options: Any) -> Any:
        first, args = args[:leading], args[leading:]
        if name == "join":  # counted once, because a generator can be gone through once
            place = len(args) - 1 if owner else 0
            args = (*args[:place], list(_count_steps(args[place])), *args[place + 1 :])
        _BUDGET.get().step()
        _require_small(name, [*owner, *args, *options.values()])
        return _BUDGET.get().charge(function(*first, *args, **options))

    return bounded


def _require_small(name: str, given: list[Any]) -> None:
    """Refuse arguments of which a filter or method would make too much; a text's method is given the text first."""
    budget, numbers = _BUDGET.get(), [number for number in given[1:] if isinstance(number, int)]
    if name in WIDE and any(abs(number) > MAX_WIDTH for number in numbers):
        raise SecurityError(f"it asks for a width above {MAX_WIDTH}")
    if name == "format":
        _require_plain_widths(given[0])
        budget.weigh(given)
    elif name == "join":
        items, separator = sorted([*given, ""][:2], key=lambda one: isinstance(one, str))
        budget.require(budget.weigh(items) + len(_write(separator)) * len(items))
    elif name == "replace" and len(given) > 2:
        text, old, new = map(_write, given[:3])
        budget.require(len(text) + text.count(old) * len(new))
    elif name == "indent":
        budget.require(len(given[0]) + (given[0].count("\n") + 1) * max(numbers, default=4))
    elif name == "sum" and any(isinstance(start, COLLECTIONS) for start in given[1:]):
        raise SecurityError("it adds up lists")


class _Counted(NodeTransformer):
    """Puts the counting filters around what loops go through and around what expressions make."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = self._filter("count steps", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._filter("concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return self._filter("charge", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List | nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return self._filter("weigh", node)

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return self._filter("weigh", node) if node.ctx == "load" else node

    def _filter(self, name: str, node: nodes.Node) -> nodes.Filter:
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """Reads ``{% generation %}`` blocks, which mark answers for training, as their content."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "+", "**", "%"})
    concat = staticmethod(_concat)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_write
        )
        kept = {name: made for name, made in self.filters.items() if name not in LEFT_OUT}
        self.filters = {name: _bound(name, made) for name, made in kept.items()}
        self.filters |= {"tojson": _bound("tojson", _to_json), "string": _write, "count steps": _count_steps}
        self.filters |= {"charge": lambda made: _BUDGET.get().charge(made), "weigh": _weigh_made}
        self.filters["concat"] = lambda parts: _concat(map(_write, parts))
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _format_now}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Counted().visit(super()._parse(source, name, filename))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if (isinstance(obj, str) and attr in UNSAFE) or isinstance(obj, int | float | bytes):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        budget = _BUDGET.get()
        if operator == "%" and isinstance(left, str):
            _require_plain_widths(left)
            budget.weigh(right)
        elif operator == "*":
            for made, times in ((left, right), (right, left)):
                if isinstance(times, int) and isinstance(made, str | COLLECTIONS):
                    budget.require(len(made) * times)
        elif operator == "+" and isinstance(left, str | COLLECTIONS) and isinstance(right, str | COLLECTIONS):
            budget.require(len(left) + len(right))
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * (right if operator == "**" else 1) + right.bit_length()
            if bits > MAX_BITS:
                raise SecurityError("it computes a number of too many digits")
        return budget.charge(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, *args: Any, **options: Any) -> Any:  # type of jinja's own
        _BUDGET.get().step()
        if isinstance(obj, LoopContext):  # a loop that calls itself
            args = (_count_steps(args[0]), *args[1:])
        owner = getattr(
            getattr(obj, "__wrapped__", obj), "__self__", None
        )  # jinja wraps a text's format method
        if isinstance(owner, str):
            obj = _bound(getattr(obj, "__name__", ""), obj, (owner,))
        return _weigh_made(super().call(context, obj, *args, **options))


@lru_cache(maxsize=16)
def _compile(template: str) -> Template:
    return _ENVIRONMENT.from_string(template)


_ENVIRONMENT = _Sandbox()
