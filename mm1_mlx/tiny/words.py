"""Words that scenes show: short English ones, and random letters in a row."""

from __future__ import annotations

import random

from mm1_mlx.tiny.lettering import DIGITS, LETTERS


def _split_words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TRAINING_WORDS = _split_words("""
    a ace act add age air all an and ant any ape arm art as ask at axe back bad bag ball band bar bat be bed bee
    best big bird bit black blue boat body bone book box boy bread brown bus but buy by cake call can cap car card
    care case cat chair city clay club coat cold come cook cool copy corn cow cup cut dance dark day deep desk dog
    door down dream drink drum dry duck dust ear earth east easy eat egg end eye face fact fall far fast fat feet
    field film fire fish five flat floor fly food foot for fox free fresh fruit full fun game gas gate get girl
    give glad glass go goat gold good grass green grey grow gum hair half hall hand happy hard hat have he head
    heat help hen her here hero high hill him hit hole home honey hope horse hot hour house ice if in ink iron is
    it jam jar jet job jump just keep key kid kind king kiss kite knee lake lamp land large last late law lead leaf
    leg life light like line lion list live lock long look love low lunch main man many map mark mat may me meal
    meat men milk mind mix money moon more most mouse mud music my nail name near neck nest new next nice night no
    nose not note now nut oak of off oil old on one only open or out over owl own page paint pan paper park part
    party past path pay pea pen pet pig pin pink plan plant play pool post pot power press pull push put queen
    quiet race rain read red rest rice rich ride ring river road rock roof room rose round row run sad safe sail
    salt same sand save sea seat see sell send set shape sharp she shell ship shirt shoe shop short show sing sit
    six size skin sky sleep slow small smile snow so soap soft song soon soup south spoon sport stand star start
    stay stop story sugar sun sweet swim table tail take talk tall taxi tea team tell ten tent test the they thin
    this three tide time tiny to toe top town toy train tree true try two under up us use very view wait walk wall
    want war warm wash water way we week well west wet what wheel white who wide wild wind wine wing wish wolf wood
    word work world year yell yes you young zero zoo
""")
HELD_OUT_WORDS = _split_words("""
    apple bath beach bell bike blow boss brush cave chess clock cloud coin crab crown dice dish dive fan farm flag
    flute fork frog ghost globe grape hawk hut jazz jeep juice jug lemon lime maze melon mint mouth ocean onion peak
    pearl piano pizza plum quilt robot ruby sauce scarf seed shark silk skate snail sofa spice storm sword tiger
    toast torch tower truck tulip uncle vase whale yacht zebra
""")


def pick_word(rng: random.Random, *, held_out: bool = False) -> str:
    """Return a word of 1 to 5 letters: usually an English one, else random letters or digits.

    Args:
        rng: makes the random choices.
        held_out: use English words that training never shows.
    """
    choice = rng.random()
    if choice < 0.6:
        word = rng.choice(HELD_OUT_WORDS if held_out else TRAINING_WORDS)
        return rng.choice((word.upper(), word.upper(), word, word.capitalize()))
    signs = DIGITS if choice > 0.92 else LETTERS
    return "".join(rng.choice(signs) for _ in range(rng.choice((2, 3, 3, 4, 5))))
