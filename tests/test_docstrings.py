"""Every docstring of a function begins with a verb, so that it stands without the function's name."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
PROPERTIES = {"property", "cached_property"}
# In the imperative and in alphabetical order. A verb that a new docstring needs is added here.
VERBS = """
Add Answer Append Apply Ask Average Begin Build Call Change Check Choose Close Combine Compare
Compute Convert Copy Count Cut Decide Decode Define Delete Describe Do Download Draw Drop Embed
Empty End Estimate Extend Fill Find Flatten Forget Free Gather Give Go Group Have Import Interpolate
Invent Join Keep Limit List Load Lock Look Make Measure Mix Move Name Note Open Pack Pad Parse Pick
Place Prepare Print Put Raise Read Record Reduce Refuse Release Remove Repeat Replace Report Reset
Resize Return Rotate Run Say Scale Score Seed Send Set Show Silence Sort Spell Split Spread State Stream
Sum Take Teach Tell Tidy Time Tokenise Train Turn Upload Wait Write Yield
"""
KNOWN = VERBS.split()


def find_first_words(source):
    """Yield line, name and first word of each docstring of a function or method that is no property."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, FUNCTION) and not PROPERTIES & set(map(ast.unparse, node.decorator_list)):
            docstring = ast.get_docstring(node)
            if docstring is not None:
                yield node.lineno, node.name, (docstring.split() or [""])[0].rstrip(".,:;")


def test_the_verbs_stand_in_alphabetical_order_and_once():
    assert sorted(set(KNOWN)) == KNOWN


def test_every_docstring_of_a_function_begins_with_a_verb():
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}: {word!r}"
        for room in ("mm1_mlx", "convert")
        for path in sorted((ROOT / room).rglob("*.py"))
        for line, name, word in find_first_words(path.read_text(encoding="utf-8"))
        if word not in KNOWN
    ]
    assert not found, "docstrings that begin with no verb of the list:\n" + "\n".join(found)


def test_a_docstring_without_a_verb_is_found():
    source = 'class A:\n    def told(self):\n        """Of the run."""\n\n    @property\n    def size(self):\n        """Pixels."""'
    assert list(find_first_words(source)) == [(2, "told", "Of")]
