"""Say what a scene shows: the name of a thing, captions, places."""

from __future__ import annotations

from mm1_mlx.tiny.nouns import NUMBERS, add_article, capitalise, is_bare, join_words, make_plural
from mm1_mlx.tiny.scene import PLACES, Scene, Thing

NOTHING = "There is nothing in the picture."
OUTSIDE = "I know only simple drawn things."
NO_PICTURE = "There is no picture."


def phrase(thing: Thing) -> str:
    """Return the words for a thing: "red circle", "blue letter A", "dog"."""
    return f"{thing.color} {thing.noun}" if thing.color else thing.noun


def name_with_article(thing: Thing, *, size: bool = False) -> str:
    """Return the words for a thing with an article, and with its size if asked for: "a small red circle"."""
    words = f"{thing.size_word} {phrase(thing)}" if size and thing.kind != "word" else phrase(thing)
    if thing.kind == "word":
        return f"the {words}"
    return words if is_bare(thing.noun) else add_article(words)


def group_things(things: tuple[Thing, ...]) -> list[tuple[Thing, int]]:
    """Group things that have the same words; return the first thing of each group and the size of the group."""
    found: dict[str, tuple[Thing, int]] = {}
    for thing in things:
        first, number = found.get(phrase(thing), (thing, 0))
        found[phrase(thing)] = (first, number + 1)
    return list(found.values())


def list_things(things: tuple[Thing, ...]) -> str:
    """Return the things as a list in words, "two red circles and a dog"; "nothing" where there is none."""
    if not things:
        return "nothing"
    return join_words(
        [
            name_with_article(t) if n == 1 else f"{NUMBERS[n]} {phrase_plural(t)}"
            for t, n in group_things(things)
        ]
    )


def phrase_plural(thing: Thing) -> str:
    """Return the words for several such things: "red circles", "blue letters A", "dogs"."""
    if thing.kind in ("letter", "digit", "word"):
        return f"{thing.color} {make_plural(thing.kind)} {thing.text}"
    return make_plural(phrase(thing))


def caption(scene: Scene) -> str:
    """Write one sentence that names every thing, in reading order."""
    return f"{capitalise(list_things(scene.things))}." if scene.things else NOTHING


def detailed_caption(scene: Scene) -> str:
    """Write a caption that gives the number of things, then each thing with its size and place."""
    if not scene.things:
        return NOTHING
    number = len(scene.things)
    parts = join_words(
        [f"{name_with_article(t, size=True)} at the {find_nearest_place(scene, t)}" for t in scene.things]
    )
    return f"There {'is 1 object' if number == 1 else f'are {number} objects'}: {parts}."


def find_nearest_place(scene: Scene, thing: Thing) -> str:
    """Return the place of ``thing`` by thirds of the picture, also where it is near another place."""
    row, column = (min(int(3 * v / side), 2) for v, side in ((thing.y, scene.height), (thing.x, scene.width)))
    return PLACES[3 * row + column]


def has_pictograms(scene: Scene) -> bool:
    """Tell whether there are pictograms, whose many colours make "the red thing" ambiguous."""
    return any(t.kind == "pictogram" for t in scene.things)


def has_words(scene: Scene) -> bool:
    """Tell whether words are shown, which make a count ambiguous: one thing each, or several letters."""
    return any(t.kind == "word" for t in scene.things)
