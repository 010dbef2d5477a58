"""Say what a scene shows: the name of a thing, captions, places."""

from __future__ import annotations

from mm1_mlx.tiny.nouns import NUMBERS, article, capital, is_bare, joined, plural
from mm1_mlx.tiny.scene import PLACES, Scene, Thing

NOTHING = "There is nothing in the picture."
OUTSIDE = "I know only simple drawn things."
NO_PICTURE = "There is no picture."


def phrase(thing: Thing) -> str:
    """Return what a thing is called: "red circle", "blue letter A", "dog"."""
    return f"{thing.color} {thing.noun}" if thing.color else thing.noun


def one(thing: Thing, *, size: bool = False) -> str:
    """Return a thing with its article, on request with its size: "a small red circle", "the red word CAT"."""
    words = f"{thing.size_word} {phrase(thing)}" if size and thing.kind != "word" else phrase(thing)
    if thing.kind == "word":
        return f"the {words}"
    return words if is_bare(thing.noun) else article(words)


def grouped(things: tuple[Thing, ...]) -> list[tuple[Thing, int]]:
    """Return things that are called differently with how many of each there are, in the order of the first."""
    found: dict[str, tuple[Thing, int]] = {}
    for thing in things:
        first, number = found.get(phrase(thing), (thing, 0))
        found[phrase(thing)] = (first, number + 1)
    return list(found.values())


def listed(things: tuple[Thing, ...]) -> str:
    """Return "two red circles and a dog"; "nothing" for no thing."""
    if not things:
        return "nothing"
    return joined([one(t) if n == 1 else f"{NUMBERS[n]} {plural_phrase(t)}" for t, n in grouped(things)])


def plural_phrase(thing: Thing) -> str:
    """Return "red circles", "blue letters A", "dogs"."""
    if thing.kind in ("letter", "digit", "word"):
        return f"{thing.color} {plural(thing.kind)} {thing.text}"
    return plural(phrase(thing))


def caption(scene: Scene) -> str:
    """Return one sentence that names every thing, in reading order."""
    return f"{capital(listed(scene.things))}." if scene.things else NOTHING


def detailed_caption(scene: Scene) -> str:
    """Return the number of things, then each with size and place."""
    if not scene.things:
        return NOTHING
    number = len(scene.things)
    parts = joined([f"{one(t, size=True)} at the {nearest_place(scene, t)}" for t in scene.things])
    return f"There {'is 1 object' if number == 1 else f'are {number} objects'}: {parts}."


def nearest_place(scene: Scene, thing: Thing) -> str:
    """Return the place of ``thing``, be it near another."""
    row, column = (min(int(3 * v / side), 2) for v, side in ((thing.y, scene.height), (thing.x, scene.width)))
    return PLACES[3 * row + column]


def has_pictograms(scene: Scene) -> bool:
    """Tell whether there are things of many colours, so that "the red thing" may mean more than one."""
    return any(t.kind == "pictogram" for t in scene.things)


def has_words(scene: Scene) -> bool:
    """Tell whether words are shown, which one may count as one thing or as letters."""
    return any(t.kind == "word" for t in scene.things)
