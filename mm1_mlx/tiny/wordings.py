"""How people ask: forms of each kind of question, with alternatives in brackets.

"[What|Which] color is the {n}[ here|]?" stands for four wordings. A form that begins with "~" belongs to a family
that training never shows: it measures whether the model understands wordings that it has not learned. Slots: {n} a noun,
{a} the same with its article, {ns} its plural, {m} a second noun, {c} a colour, {p} a place, {r} a relation, {k} "letter",
"digit", "number" or "word".
"""

from __future__ import annotations

import random
import re
from functools import cache

BRACKETS = re.compile(r"\[([^\[\]]*)\]")
HELD_OUT = "~"

FORMS = {
    "color": """
    [What|Which] color is the {n}[ in the picture| here|]?
    [What|Which] color does the {n} have[ in the picture|]?
    What is the color of the {n}[ in the picture| you see|]?
    [Tell me|Say|Name|Give] the color of the {n}.
    [Tell me|Say] what color the {n} [is|has].
    [The {n} is|The {n}, it is] [what|which] color?
    The color of the {n} is?
    [I see|There is] a {n}. [What|Which] color is it?
    [What|Which] color [would you call|do you call] the {n}?
    In [what|which] color is the {n} [drawn|painted|shown]?
    [Color|Colour] of the {n}?
    [Which|What] color was used for the {n}?
    Look at the {n}. [What|Which] color [is it|does it have]?
    [Can|Could] you [tell me|name] the color of the {n}?
    {n}: [which|what] color?
    ~How is the {n} [colored|painted]?
    ~[Describe|Identify] the color of the {n}.
    ~The {n} has [what|which] color?
    ~[Do you know|Any idea] what color the {n} is?
    ~I [want|would like] to know the color of the {n}.
    ~If you look at the {n}, [what|which] color do you see?
    """,
    "shape": """
    What [shape|kind of shape] is the {c} [object|thing]?
    [What|Which] [shape|object|thing] is {c}[ in the picture| here|]?
    What is {c}[ in the picture| here|]?
    What is the [shape of the |]{c} [object|thing][ in the picture|]?
    Name the {c} [shape|object|thing].
    What {c} [shape|object|thing] [is there|is shown|do you see|is in the picture]?
    [Tell me|Say] [the shape of the {c} object|what the {c} thing is].
    [Which|What] [shape|object] has the color {c}?
    The {c} [object|thing] is [a what|what shape]?
    [I see|There is] something {c}. What is it?
    What is that {c} thing?
    [Which|What] shape does the {c} [object|thing] have?
    [Can|Could] you tell me what the {c} [object|thing] is?
    Look at the {c} [object|thing]. What [is it|shape is it]?
    ~[Identify|Describe] the {c} [object|shape].
    ~What would you call the {c} [object|thing]?
    ~Which of the [shapes|objects] is the {c} one?
    ~[Do you know|Any idea] what the {c} [object|thing] is?
    ~The thing in {c}, what is it?
    """,
    "existence": """
    Is there {a}[ in the picture| here|]?
    Do you see {a}[ in the picture| here|]?
    Can you [see|find] {a}[ in the picture| anywhere|]?
    Does the picture [show|contain|have] {a}?
    Is {a} [there|shown|in the picture]?
    [Tell me|Say] [if|whether] there is {a}.
    Is there any {n}[ in the picture|]?
    [Any {n}|Any {ns}][ here| in the picture|]?
    [Are there|Do you see] [any |]{ns}[ in the picture|]?
    Does it show {a}?
    Is {a} [visible|drawn] [here|in the picture]?
    [Can|Could] you tell me [if|whether] you see {a}?
    I am looking for {a}. Is there one?
    ~Would you say there is {a}[ in it|]?
    ~Have you [found|seen] {a} in the picture?
    ~Is it true that there is {a}?
    ~There is {a} in the picture, [right|isn't there|is that so]?
    ~Does {a} [appear|occur] in the picture?
    ~[Check|Find out] if the picture shows {a}.
    """,
    "count": """
    How many {ns} [are there|are in the picture|do you see|can you see|are shown|are here|can be seen]?
    How many {ns} does the picture [show|contain|have]?
    [Count|Please count] the {ns}[ in the picture|].
    [What is the|] number of {ns}[ in the picture|]?
    How many {ns}?
    [Tell me|Say] how many {ns} [there are|you see].
    Give the number of {ns}.
    What number of {ns} [is there|do you see]?
    [Can|Could] you count the {ns}?
    {ns}: how many?
    I see {ns}. How many are there?
    ~What is the count of {ns}?
    ~In total, how many {ns} do you find?
    ~Of {ns}, how many [are visible|does it show]?
    ~[Determine|Work out] the number of {ns}.
    ~If you count the {ns}, what do you get?
    ~The picture has how many {ns}?
    """,
    "size": """
    Is the {n} [large or small|small or large|big or small|small or big][ in the picture|]?
    [What|Which] size [is the {n}|does the {n} have]?
    How [big|large] is the {n}[ in the picture|]?
    What is the size of the {n}?
    [Tell me|Say] [the size of the {n}|how big the {n} is].
    [Tell me|Say] [if|whether] the {n} is large or small.
    Size of the {n}?
    [I see|There is] a {n}. Is it [large or small|small or large]?
    Would you call the {n} [large or small|small or large]?
    [The {n} is|Is the {n}] large, or is it small?
    {n}: large or small?
    ~Does the {n} look [big or small|large or small]?
    ~Of what size is the {n}?
    ~How would you describe the size of the {n}?
    ~[Judge|Describe] the size of the {n}.
    """,
    "place": """
    Where is the {n}[ in the picture| here|]?
    Where [do you see|can I find|can you see] the {n}[ in the picture|]?
    In [which|what] [part|place|area] of the picture is the {n}?
    What is the [position|place|location] of the {n}?
    [Tell me|Say] where the {n} is.
    [Which|What] part of the picture [has|shows] the {n}?
    Where in the picture is the {n}?
    Where has the {n} been drawn?
    [I see|There is] a {n}. Where is it?
    {n}: where?
    [At|In] [what|which] place is the {n}?
    [Can|Could] you tell me where the {n} is?
    ~[Locate|Find] the {n}.
    ~Whereabouts is the {n}?
    ~To find the {n}, where should I look?
    ~[Describe|Give] the position of the {n}[ in the picture|].
    ~The {n} is in which [part|corner or side] of the picture?
    """,
    "region": """
    What is [at|in] the {p}[ of the picture|]?
    What [do you see|can you see|is there|is shown] [at|in] the {p}[ of the picture|]?
    [Which|What] [thing|object] [is|stands] [at|in] the {p}?
    [Name|Describe] what is at the {p}.
    [Tell me|Say] what is [at|in] the {p}.
    Look at the {p}. What is there?
    At the {p}, what do you see?
    {p}: what is there?
    ~What [stands|lies|appears] at the {p} of the picture?
    ~What would I find [at|in] the {p}?
    ~The {p} of the picture shows what?
    """,
    "relation": """
    Is the {n} {r} the {m}[ in the picture|]?
    [Tell me|Say] [if|whether] the {n} is {r} the {m}.
    [Do you see|Can you see] the {n} {r} the {m}?
    Does the {n} [stand|lie] {r} the {m}?
    The {n} is {r} the {m}, [right|is it not]?
    Is it {r} the {m} that the {n} is?
    [Compared|In relation] to the {m}, is the {n} {r} it?
    Look at the {n}. Is it {r} the {m}?
    [Would you say|Do you think] the {n} is {r} the {m}?
    Has the {n} been [drawn|placed] {r} the {m}?
    Is the place of the {n} {r} the {m}?
    [Can|Could] you tell me [if|whether] the {n} is {r} the {m}?
    ~Is it true that the {n} is {r} the {m}?
    ~Does one find the {n} {r} the {m}?
    ~Check if the {n} is {r} the {m}.
    ~Seen from the {m}, is the {n} {r} it?
    """,
    "relative": """
    Is the {n} [left or right of|to the left or right of|on the left or right of] the {m}?
    Where is the {n} [relative to|as seen from|compared to|in relation to] the {m}?
    On which side of the {m} is the {n}?
    [Seen from|Starting from] the {m}, where is the {n}?
    In [which|what] direction from the {m} is the {n}?
    [Tell me|Say] where the {n} is, seen from the {m}.
    Look at the {m}. Where is the {n} from there?
    Where does the {n} stand, [relative|compared] to the {m}?
    ~To get from the {m} to the {n}, which way do I go?
    ~Taking the {m} as the center, where is the {n}?
    """,
    "symbol": """
    [What|Which] {k} is [shown|in the picture|written|here|it]?
    [What|Which] {k} [do you see|can you see|can you read|is this]?
    [Read|Name|Tell me|Give me] the {k}[ in the picture|].
    What is the {k}[ in the picture|]?
    What {k} is there[ in the picture|]?
    What does the {k} say?
    [Can|Could] you read the {k}?
    [Tell me|Say] which {k} [you see|it is|is shown].
    The {k} is?
    {k}: which one?
    Look at the {k}. [What|Which one] is it?
    What is [written|shown] as a {k}?
    ~[Spell|Write] out the {k}.
    ~Which {k} did someone [draw|write]?
    ~[Identify|Recognise] the {k}.
    ~Do you know what {k} this is?
    """,
    "word": """
    What [does it say|is written][ in the picture| here|]?
    [What|Which] word is [shown|written|in the picture|here|it]?
    [What|Which] word [do you see|can you see|can you read|is this]?
    [Read|Tell me|Give me] the [word|text][ in the picture|].
    What does the [text|word|picture|writing|sign] say?
    Read what [is written|it says].
    [Can|Could] you read the [word|text]?
    [Tell me|Say] which word [you see|it is|is shown].
    What is the [word|text]?
    What text [is there|do you see|is shown]?
    ~[Spell|Write] out the [word|text].
    ~[Transcribe|Copy] the text.
    ~Which letters are written here?
    ~What is there to read?
    """,
    "check": """
    Is the {n} {c}[ in the picture|]?
    Is the color of the {n} {c}?
    Does the {n} have the color {c}?
    [Tell me|Say] [if|whether] the {n} is {c}.
    The {n} is {c}, [right|is it not]?
    Would you call the {n} {c}?
    [I see|There is] a {n}. Is it {c}?
    Is it a {c} {n}?
    Is the {n} drawn in {c}?
    [Can|Could] you tell me [if|whether] the {n} is {c}?
    Do you see the {n} in {c}?
    [Is {c}|Would {c} be] the color of the {n}?
    ~Is it true that the {n} is {c}?
    ~Has the {n} been painted {c}?
    ~Is {c} what the {n} looks like?
    """,
    "single_color": """
    [What|Which] color is [it|this|that|the thing|the object|shown]?
    [What|Which] color [does it have|do you see]?
    What is [its color|the color|the color of it]?
    [Tell me|Name|Say] [its|the] color.
    Color?
    ~In what color is it?
    ~What color would you call it?
    """,
    "single_name": """
    What is [it|this|that|shown|in the picture|here]?
    What do you see?
    What [object|thing] is [it|this|that|shown|here]?
    What [object|thing] do you see[ here| in the picture|]?
    [Name|Identify] [it|this|the object|the thing].
    [Tell me|Say] what [this|it] is.
    What does the picture show?
    What is the name of [it|this|the thing|the object]?
    What [would you|do you] call [it|this]?
    This is a what?
    Look at it. What is it?
    [Can|Could] you [name|tell me] what this is?
    ~What is this thing called?
    ~Which word names [it|this]?
    ~What kind of [thing|object] is [it|this]?
    ~Do you [recognise|know] what this is?
    """,
    "single_shape": """
    [What|Which] shape is [it|this|that|shown|here|the thing]?
    [What|Which] shape do you see[ here| in the picture|]?
    [What|Which] shape does [it|the thing|this thing] have?
    [Name|Tell me|Say] [the|its] shape.
    What is [its shape|the shape of it|the shape]?
    ~In what shape has it been drawn?
    ~What would you call its shape?
    """,
    "single_size": """
    Is it [large or small|small or large|big or small]?
    [What|Which] size is [it|this|the thing|the object]?
    How [big|large] is [it|this|the thing]?
    ~Does it look large or small?
    """,
    "colors": """
    [What|Which] colors [are|do] the {ns}[ have|]?
    [What|Which] colors are the {ns}[ in the picture|]?
    [Name|Tell me|Give] the colors of the {ns}.
    What are the colors of the {ns}?
    ~In which colors are the {ns} drawn?
    """,
    "anything": """
    Is there [anything|something] [in the picture|here|to see]?
    Is the picture [not empty|showing anything]?
    Do you see [anything|something][ at all|]?
    Does the picture [show|contain] [anything|something]?
    ~Can anything be seen here?
    """,
    "caption": """
    [Describe|Caption|Summarise] [the picture|this|what you see|it].
    What [is in the picture|do you see|can you see|is shown|is there|is to be seen]?
    What does the picture [show|contain|have in it]?
    [Write|Give|Make] a caption[ for the picture|].
    [What|Which] [objects|things] [are there|do you see|are in the picture]?
    [Tell me|Say] what [you see|is in the picture|is shown].
    [List|Name] [the things|the objects|everything][ in the picture|].
    Describe everything[ you see|].
    [Can|Could] you describe the picture?
    A short description[ of the picture|], please.
    What is this a picture of?
    ~What would you say is in this picture?
    ~Put the picture into words.
    ~Please write down what the picture shows.
    ~I can't see the picture. What is on it?
    ~Which things has someone drawn here?
    """,
    "detail": """
    [Describe|Explain] [the picture|this|it] in detail.
    [Where is everything|What is where|Where are all the things|Where are the things]?
    [Tell me|Say] what is where.
    [List|Name] [all|the] things [and|with] their places.
    Describe [everything|the picture] with places.
    Give a detailed [description|caption].
    Describe where everything is.
    ~What is in the picture, and where?
    ~Give me all the details.
    """,
    "rationale": """
    How many {ns} are there? [Count|List] them one by one.
    How many {ns} do you see? [Think|Go] step by step.
    Count the {ns} one by one.
    [List the {ns}|Name each of the {ns}], then say how many there are.
    Step by step: how many {ns} are there?
    [First|Before you answer] list the {ns}. How many are there?
    ~How many {ns}? Show how you counted.
    ~Go through the {ns} one after the other. How many are there?
    """,
    "same": """
    [Do|Does] [both pictures|the two pictures|the pictures] show the same [things|objects]?
    Are the same [things|objects] in [both|the two|the] pictures?
    Is the content of the two pictures the same?
    [Is|Do] the second picture [the same as|like] the first?
    Same or different?
    [Tell me|Say] [if|whether] both pictures show the same.
    ~Are there any differences between the pictures?
    ~Compare the pictures. Do they match?
    """,
    "more": """
    Which picture [has|shows|contains] more [things|objects], the first or the second?
    [Which|What] picture has more in it?
    In which picture are there more [things|objects]?
    [Are there|Do you see] more [things|objects] in the first or the second picture?
    [Tell me|Say] which picture has more [things|objects].
    ~Where do you count more [things|objects], in the first or in the second?
    ~Of the two pictures, which is fuller?
    """,
    "which": """
    Which picture [has|shows|contains] {a}[, the first or the second|]?
    In which picture [is there|do you see|can you find] {a}?
    [Is|Do you see] {a} in the first or the second picture?
    [Tell me|Say] which picture shows {a}.
    Where is the {n}, in the first or the second picture?
    ~Which of the two has {a} in it?
    ~I am looking for {a}. Which picture should I take?
    """,
    "new": """
    What is in the second picture but not in the first?
    What [is new|was added|has appeared] in the second picture?
    What does the second picture show that the first does not?
    What has the second picture that the first lacks?
    [Name|Tell me] what is new in the second picture.
    ~What came into the second picture?
    ~Compare the pictures. What was added?
    """,
}


@cache
def list_forms(kind: str, *, held_out: bool = False) -> tuple[str, ...]:
    """Return the forms of a kind of question, brackets included: those for training, or those for tests."""
    lines = [line.strip() for line in FORMS[kind].strip().split("\n")]
    return tuple(line.removeprefix(HELD_OUT) for line in lines if line.startswith(HELD_OUT) == held_out)


def pick_form(kind: str, rng: random.Random, *, held_out: bool = False, without: str = "") -> str:
    """Return a random wording of ``kind`` with empty slots; it does not contain the slot ``without``."""
    options = [form for form in list_forms(kind, held_out=held_out) if not without or without not in form]
    form = rng.choice(options)
    while (found := BRACKETS.search(form)) is not None:
        form = form[: found.start()] + rng.choice(found[1].split("|")) + form[found.end() :]
    if without and without in form:
        return pick_form(kind, rng, held_out=held_out, without=without)
    return form.strip()


@cache
def count_forms(kind: str, *, held_out: bool = False) -> int:
    """Count the wordings that the forms of ``kind`` stand for."""
    total = 0
    for form in list_forms(kind, held_out=held_out):
        number = 1
        for choice in BRACKETS.findall(form):
            number *= len(choice.split("|"))
        total += number
    return total
