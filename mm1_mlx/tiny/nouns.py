"""Nouns and the words around them: articles, plurals, lists, other words for the same, and nouns of no thing here."""

from __future__ import annotations

from functools import cache

from mm1_mlx.tiny.stock import pictogram_classes

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PLURALS = {
    **{
        "mouse": "mice",
        "wolf": "wolves",
        "knife": "knives",
        "foot": "feet",
        "tooth": "teeth",
        "goose": "geese",
    },
    **{
        "sheep": "sheep",
        "deer": "deer",
        "fish": "fish",
        "moose": "moose",
        "loaf": "loaves",
        "leaf": "leaves",
    },
    **{"man": "men", "woman": "women", "policeman": "policemen", "bison": "bison", "shrimp": "shrimps"},
    **{"person": "people", "box": "boxes", "piece of clothing": "pieces of clothing"},
    **{"slice of cake": "slices of cake", "bowl of rice": "bowls of rice", "cup of tea": "cups of tea"},
    **{
        "sheet of paper": "sheets of paper",
        "bow and arrow": "bows and arrows",
        "fleur de lis": "fleurs de lis",
    },
}
GROUPS = ("animal", "vehicle", "instrument", "flower")  # of pictograms, that can be asked about
OTHER_WORDS = {  # in questions; answers keep to the first
    "circle": ("round thing", "disc", "dot"),
    "square": ("box", "square shape"),
    "triangle": ("three-sided shape", "triangular shape"),
    "cross": ("plus sign", "plus", "cross shape"),
    "diamond": ("rhombus", "diamond shape", "lozenge"),
    "star": ("star shape", "five-pointed star"),
    "digit": ("number", "numeral"),
    "letter": ("character",),
}


def _split_nouns(text: str) -> tuple[str, ...]:
    return tuple(noun.strip() for noun in text.split(";"))


UNKNOWN = _split_nouns("""
    airport; album; apron; arrowhead; attic; axle; bagpipe; bakery; balcony; banner; barn; basement; bead; beaker;
    bench; billboard; binder; bishop; blanket; blender; bonfire; bookshelf; box; bracelet; bridge; buckle;
    buffalo; button; cabin; cable; cage; calculator; canal; cannon; carpet; cave; ceiling; cellar; chain; chalk;
    chimney; cliff; cloth; coast; collar; column; corner; cottage; counter; cradle; crate; cupboard; curb;
    curtain; cushion; desert; dock; drain; drawer; dune; easel; fence; field; flag; flour; fork; fridge; frost;
    garage; garden; gate; glacier; glue; grill; hairbrush; hallway; hammock; harbor; harness; hedge; hinge; hose;
    hotel; hut; igloo; iron; kettle; lake; lawn; lawnmower; lens; lever; library; lid; lighthouse; mattress;
    meadow; mill; mitten; mop; motor; museum; nail; napkin; night; oar; orchard; oven; paddle; pan; park; path;
    pavement; pedal; picnic; pillow; pipe; pitcher; pocket; pond; pool; porch; pump; quilt; rack; raft; rail;
    rake; ramp; reef; refrigerator; river; road; roof; rope; rug; runway; saddle; sail; sand; shed; shelf; shore;
    shovel; sidewalk; sink; skirt; sleeve; stamp; steeple; straw; stream; sword; table; tank; tap; tile; towel;
    tower crane; trailer; tray; tunnel; tuxedo; vase; vault; veil; vest; village; wall; wardrobe; warehouse;
    washing machine; waterfall; well; whistle; windmill; wire; wood; workshop; wreath; zipper; hexagon; rectangle;
    oval; crescent; arrow; spiral; trapezoid; ellipse; cone; sphere; pyramid
""")
NEAR = _split_nouns("""
    man; woman; boy; girl; bearded person; computer; swimsuit; metro; railway car; bullet train; lorry; van; timer;
    stopwatch; thread; purse; blouse; briefs; compact disc; receiver; flat shoe; sandal; coffin; rat; hamster; horn;
    notebook; folder; ferry; cruise ship; bank; jar; urn; amphora; cup of tea; tropical drink; elf; fairy; prince; ogre
""")  # pictograms that look too much like others to ask whether they are there
HELD_OUT_UNKNOWN = _split_nouns("""
    pentagon; octagon; cube; cylinder; parallelogram; zigzag; semicircle; polygon; spoonbill; kayak; yacht; trolley;
    caravan; hovercraft; submarine; zeppelin; chandelier; doorbell; doormat; toaster; microwave; dishwasher; freezer;
    kangaroo rat; walrus; ostrich; pelican; pigeon; puma; cheetah; antelope; mole; weasel; eel; salmon; trout; wasp;
    moth; dragonfly; grasshopper; cabbage; spinach; celery; radish; raspberry; plum; apricot; fig; walnut; omelette;
    lasagna; muffin; jam; yoghurt; clarinet; cello; tambourine; harmonica; tuba; xylophone; trombone; cathedral;
    skyscraper; barn owl; cornfield; snowplow; bulldozer; crane truck; unicycle; tandem; surfboard; snowboard; tripod;
    joiner; plumber; dentist; sculptor; violinist; janitor; gondola; canyon; lagoon; iceberg; swamp; birdhouse; stapler
""")


def add_article(noun: str) -> str:
    """Return ``noun`` with "a" or "an", or unchanged where it takes no article ("bread", "glasses")."""
    if noun in _list_bare():
        return noun
    vowel = noun[0].lower() in "aeio" or noun.startswith(("umb", "urn", "unnamed"))
    return ("an " if vowel and not noun.startswith(("one-", "once")) else "a ") + noun


def make_plural(noun: str) -> str:
    """Return ``noun`` with its last word in the plural."""
    if noun in _list_bare():
        return noun
    if noun in PLURALS:
        return PLURALS[noun]
    first, space, last = noun.rpartition(" ")
    if last in PLURALS:
        return first + space + PLURALS[last]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun in ("potato", "tomato", "mosquito"):
        return noun + "es"
    return noun + "s"


def is_bare(noun: str) -> bool:
    """Tell whether ``noun`` takes no article and cannot be counted."""
    return noun in _list_bare()


def join_words(words: list[str], last: str = " and ") -> str:
    """Join words as "a", "a and b" or "a, b and c"; return "" where there is no word."""
    return last.join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def capitalise(text: str) -> str:
    """Return ``text`` with its first letter as a capital."""
    return text[:1].upper() + text[1:]


@cache
def list_unknown_nouns(*, held_out: bool) -> tuple[str, ...]:
    """Return nouns of things that no scene shows: those for training, or those for tests if ``held_out``.

    The names of pictograms that are trained without names are for training, those of held-out ones for tests.
    """
    split = "held-out" if held_out else "unnamed"
    own = HELD_OUT_UNKNOWN if held_out else UNKNOWN
    named = {c.name for c in pictogram_classes("named")}
    names = [c.name for c in pictogram_classes(split)]
    return tuple(sorted({*own, *names} - named - set(NEAR)))


@cache
def _list_bare() -> frozenset[str]:
    return frozenset(c.name for c in pictogram_classes() if c.form == "bare")
