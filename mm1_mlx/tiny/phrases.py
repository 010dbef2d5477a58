"""How people ask: the wordings of each kind of question, with {n} for a noun, {c} for a colour and so on."""

from __future__ import annotations


def _split_phrases(text: str) -> tuple[str, ...]:
    """Split ``text`` at bars and line ends into wordings."""
    return tuple(words.strip() for line in text.split("\n") for words in line.split("|") if words.strip())


COLOR = _split_phrases("""
    What color is the {n}? | What colour is the {n}? | Which color is the {n}? | The {n} is what color?
    What is the color of the {n}? | What's the color of the {n}? | Which color does the {n} have?
    What color does the {n} have? | Tell me the color of the {n}. | Name the color of the {n}.
    Give the color of the {n}. | Color of the {n}? | What color is that {n}? | What color is this {n}?
    The color of the {n} is? | Say what color the {n} is. | In what color is the {n} drawn?
    I see a {n}. What color is it? | There is a {n}. Which color is it? | What color would you call the {n}?
    What color is the {n} in the picture? | What is the colour of the {n}? | which color has the {n}?
""")
SHAPE = _split_phrases("""
    What shape is the {c} object? | What shape is the {c} thing? | What shape is {c}? | What is {c}?
    Which shape is {c}? | What is the shape of the {c} object? | What is the {c} object?
    What is the {c} thing? | Name the {c} shape. | What {c} shape is there? | What kind of shape is {c}?
    Which object is {c}? | What is the shape of the {c} thing? | Tell me the shape of the {c} object.
    The {c} object is a what? | What {c} object do you see? | What {c} thing is in the picture?
    Which shape has the color {c}? | What's the {c} shape? | Say what the {c} object is.
    Which shape does the {c} object have? | What form does the {c} object have? | Which thing is {c}?
    What object is {c}?
""")
COUNT = _split_phrases("""
    How many {ns} are there? | How many {ns} are in the picture? | How many {ns} do you see? | Count the {ns}.
    How many {ns} can you see? | How many {ns}? | What is the number of {ns}? | Number of {ns}?
    How many {ns} does the picture show? | How many {ns} are shown? | Tell me how many {ns} there are.
    What number of {ns} is there? | How many {ns} are in this image? | Please count the {ns}.
    How many {ns} does it contain? | Say how many {ns} you see. | Give the number of {ns}.
""")
EXISTENCE = _split_phrases("""
    Is there {a}? | Is there {a} in the picture? | Do you see {a}? | Can you see {a}? | Is {a} there?
    Does the picture show {a}? | Does the picture contain {a}? | Does the image have {a}? | Is {a} shown?
    Is there {a} in this image? | Does this picture have {a}? | Tell me if there is {a}. | Any {n}?
    Is {a} in the picture? | Is there any {n}? | Are there any {ns}? | Do you see any {ns}?
    Can you find {a}? | Does it show {a}? | Are there {ns} in the picture? | Is there some {n}?
""")
SIZE = _split_phrases("""
    Is the {n} large or small? | Is the {n} small or large? | What size is the {n}? | How big is the {n}?
    What is the size of the {n}? | Which size does the {n} have? | Is the {n} big or small?
    How large is the {n}? | Tell me the size of the {n}. | Of what size is the {n}? | Size of the {n}?
""")
PLACE = _split_phrases("""
    Where is the {n}? | Where is the {n} in the picture? | In which part of the picture is the {n}?
    Where do you see the {n}? | What is the position of the {n}? | Tell me where the {n} is.
    Where can I find the {n}? | Where in the image is the {n}? | In what place is the {n}?
""")
REGION = _split_phrases("""
    What is at the {p}? | What is in the {p} of the picture? | What do you see at the {p}? | What is {p}?
    What object is at the {p}? | What is there at the {p}? | Describe the {p} of the picture.
    What stands at the {p}? | Which things are at the {p}? | What can you see in the {p} of the image?
""")
RELATION = _split_phrases("""
    Is the {n} {r} the {m}? | Is the {n} to be found {r} the {m}? | Tell me if the {n} is {r} the {m}.
    Does the {n} stand {r} the {m}? | Do you see the {n} {r} the {m}?
""")
SYMBOL = _split_phrases("""
    What {k} is shown? | What {k} is it? | Which {k} is in the picture? | What {k} do you see?
    What {k} is this? | Which {k} is shown? | What {k} is in the picture? | Read the {k}. | Name the {k}.
    Which {k} do you see? | What is the {k}? | Tell me the {k}. | What {k} is there?
    Read the {k} in the picture.
""")
CHECK = _split_phrases("""
    Is the {n} {c}? | Is the color of the {n} {c}? | Is the {n} in the picture {c}? | Is this {n} {c}?
    Does the {n} have the color {c}? | Tell me if the {n} is {c}. | The {n} is {c}, right?
""")
SINGLE = {
    "color": ("What color is it?", "Which color is it?", "What color is this?", "What color does it have?"),
    "shape": ("What shape is it?", "What shape is this?", "Which shape is shown?", "What shape do you see?"),
    "size": ("Is it large or small?", "How big is it?", "What size is it?"),
}
BRIEF = _split_phrases("""
    Describe the picture. | What do you see? | What is in the picture? | Describe this image. | What is shown?
    Write a caption. | What does the picture show? | What is in this image? | Describe what you see.
    Caption this. | What objects are there? | What things do you see? | Tell me what you see.
    What can you see?
""")
DETAIL = _split_phrases("""
    Describe the picture in detail. | Describe everything in the picture. | Where is everything?
    Describe this image in detail. | List all objects and their places. | Tell me what is where.
""")
SYNONYMS = (("picture", "image"), ("picture", "photo"), ("object", "thing"), ("Tell me", "Please tell me"))
