"""The rules by which the Stanford tokenizer cuts English text into Penn Treebank tokens, in order of precedence.

They describe the tokens of ``PTBLexer`` 3.4.1, which is what the published caption metrics were computed with, in the
notation of ``longest``: of all the rules, that which describes the longest beginning of the text makes the next token;
of equally long ones, the first. A rule with ``ahead`` counts what must follow, but leaves it in the text.

The sets of characters are those of ``ptb_characters``: ``\\l`` letters, ``\\m`` what else a word may hold, ``\\d`` digits,
``\\s`` blanks, ``\\v`` line breaks, ``\\y`` signs.

Some rules are accidents, kept because the scores depend on them: ``end.Next`` is one word but ``so,so`` are two,
``cannot`` is two tokens and ``dunno`` one, and a single letter before a period and ``The`` loses the period.
"""

from collections.abc import Callable
from typing import NamedTuple

from mm1_mlx.evaluation import ptb_spelling as spelling


class Rule(NamedTuple):
    """A kind of token: what it looks like in a text, and how it is written."""

    pattern: str
    write: Callable[[str], str | None] = spelling.keep
    ahead: str = ""


GAP = r"(\s|\v|\r\n)"
ENTITY = "&[aeiouAEIOU](acute|grave|uml);"  # an accented letter
AMP = "&amp;"
APOSTROPHE = r"(['\u0092\u2019]|&apos;)"
INNER_APOSTROPHE = rf"({APOSTROPHE}|[`\u0091\u2018\u201b])"  # also those that stand for one inside a word
PAUSE = r"[,;:\u3001]"

# Words and what is tied to them by an apostrophe.
LETTER = rf"([\l\m]|{ENTITY})"
PART = rf"{LETTER}({LETTER}|\d)*"
WORD = rf"{PART}([.!?]{PART})*"
ENDING = rf"{APOSTROPHE}([msdMSD]|re|ve|ll)"
BEFORE_NOT = r"[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*"
NOT = f"n{INNER_APOSTROPHE}t"
WITH_APOSTROPHE = "|".join(
    (
        rf"{APOSTROPHE}(n{APOSTROPHE}?|em|[2-9]0s|till?|cause)",
        rf"([lLdDjJ]|Dunkin|somethin|ol){APOSTROPHE}",
        rf"[A-HJ-XZn]{INNER_APOSTROPHE}\l\l+",
        rf"\l+[aeiouyAEIOUY]{INNER_APOSTROPHE}[aeiouA-Z]\l*",
        rf"O{INNER_APOSTROPHE}o",
        r"cont'd\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l",
    )
)

# Compounds.
ALNUM = r"[\l\d]"
ELIDED = rf"([dDoOlL]{INNER_APOSTROPHE}{ALNUM})?"  # d'Avignon
HYPHENATED = rf"{ELIDED}{ALNUM}+([-_\u058a\u2010\u2011]{ELIDED}{ALNUM}+)*"
ACRONYM = r"([A-Za-z](\.[A-Za-z])+|(Canada|Sino|Korean|EU|Japan|non)-U\.S|U\.S\.-(U\.K|U\.S\.S\.R))"
WITH_NUMBERS = rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(-([A-Za-z0-9\u00ad]+|{ACRONYM}\.))+"
HALF = r"[A-Za-z0-9]+(-[A-Za-z]+){0,2}"
SLASHED = rf"{HALF}(\\?\/{HALF}){{1,2}}"
CAPITALS = rf"[A-Z]+(([+&]|{AMP})[A-Z]+)+"  # AT&T
TREEBANK = "|".join(
    (
        r"-(RRB|LRB|RCB|LCB|RSB|LSB)-|C\.D\.s|pro-|anti-",
        rf"S(&|{AMP})(P-500|Ls)|(Cap{APOSTROPHE}n|c{APOSTROPHE}est)",
    )
)

# Abbreviations keep their period. A letter in brackets must be a capital, for the rest would be a word.
ENDS_SENTENCE = "|".join(
    (
        "Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Mon|Tues?|Wed|Thu|Thurs|Fri",
        "Ala|Ariz|[A]z|[A]rk|Calif|Colo|Conn|Ct|Dak|[D]el|Fla|Ga|[I]ll|Ind|Kans?|Ky|[L]a|[M]ass|Md|Mich|Minn|[M]iss|Mo",
        "Mont|Neb|Nev|Okla|[O]re|[P]a|Penn|Tenn|[T]ex|Va|Vt|[W]ash|Wisc?|Wyo",
        "Inc|Cos?|Corp|Pp?t[ye]s?|Ltd|Plc|Rt|Bancorp|Bhd|Assn|Univ|Intl|Sys|tel|est|ext|sq|Jr|Sr|Bros|Blvd|Rd|Esq",
        r"(Ed|Ph)\.D|etc|al|seq|Bldg",
    )
)
INSIDE_SENTENCE = "|".join(
    (
        "Mr|Mrs|Ms|[M]iss|Drs?|Profs?|Sens?|Reps?|Attys?|Lt|Col|Gen|Messrs|Govs?|Adm|Rev|Maj|Sgt|Cpl|Pvt|Capt|Ste?|Ave",
        "Pres|Lieut|Hon|Brig|Co?mdr|Pfc|Spc|Supts?|Det|Mt|Ft|Adj|Adv|Asst|Assoc|Ens|Insp|Mlle|Mme|Msgr|Sfc",
        rf"[A-Za-z]|{ACRONYM}|a\.k\.a|Invt|Elec|Natl|M[ft]g|Dept|vs|Ph|Alex|Wm|Jos|Cie|cf|TREAS",
    )
)
STARTERS = "|".join(  # of a sentence, so that the single letter before them ended one
    (
        "[A](bout|ccording|dditionally|fter|n|s|t)?|[B]ut|[E]arlier|[H]e(r|re)?|[H]owever|[I](f|n|t)|[L]ast",
        r"[M](any|ore|r\.|s\.)|[N]ow|[O](nce|ne|ther|ur)|[S](he|ince|o|ome|uch)|[T]h(at|e|eir|en|ere|ese|ey|is)",
        "[W](e|hen|hile|hat)|[Y](et|ou)",
    )
)
BEFORE_NUMBER = "ca|figs?|prop|nos?|art|bldg|pp|op"

# Numbers.
NUMBER = r"[-+]?(\d+|\d*([.:,\u00ad\u066b\u066c]\d+)+)"
DATE = r"\d{1,2}[-\/]\d{1,2}[-\/]\d{2,4}"
RAISED = r"[\u207a\u207b\u208a\u208b]?([\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)"
FRACTION = r"(\d{1,4}[- \u00a0])?\d{1,4}(\\?\/|\u2044)\d{1,4}"
PHONE = "|".join(
    (
        r"(\([0-9]{2,3}\)[ \u00a0]?|(\+\+?)?([0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])[0-9]{3,4}[- \u00a0]?[0-9]{3,5}",
        r"((\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}",
    )
)
CURRENCY = r"[\u00a2-\u00a5\u0080\u20a0\u20ac\u060b\u0e3f\u20a4\uffe0\uffe1\uffe5\uffe6]"


def exclude(signs: str) -> str:
    """Return the pattern of a character that an address may have, except ``signs``."""
    return rf'[^ \t\n\r\u000c"<>|{signs}]'


# Addresses of the internet. In a host without www the range from the comma to the underscore takes in capitals, digits and dots, by
# accident.
PATH_END = exclude(".!?(){},-")
URL = rf"https?:\/\/{exclude('(){}')}+{PATH_END}"
WITH_WWW = rf"www\.({exclude('.!?(){},')}+\.)+[a-zA-Z]{{2,4}}"
WITHOUT_WWW = "(" + exclude("`'.!?(){},-_$") + r"+\.)+(com|net|org|edu)"
ADDRESS = rf"({WITH_WWW}|{WITHOUT_WWW})(\/{exclude('()')}+{PATH_END})?"
MAIL_START = exclude(r"(){}\u00a0")
MAIL_PART = exclude(r"(){}.\u00a0")
MAIL = rf"(&lt;|<)?[a-zA-Z0-9]{MAIL_START}*@({MAIL_PART}+\.)*{MAIL_PART}+(&gt;|>)?"
EXTENSION = "|".join(
    (
        "bat|bmp|c|class|cgi|cpp|dll|doc|docx|exe|gif|gz|h|htm|html|jar|java|jpeg|jpg|mov|mp3|pdf|php|pl|png|ppt|ps",
        "py|sql|tar|txt|wav|x|xml|zip",
    )
)
FILE = rf"({LETTER}|\d)+(\.({LETTER}|\d)+)*\.({EXTENSION})"
TAG_NAME = "[A-Za-z][A-Za-z0-9_:.-]*"
ATTRIBUTE = rf" +{TAG_NAME}( *= *('[^']*'|" + r'"[^"]*"))?'
TAG = rf"<([!?][A-Za-z-][^>\r\n]*|{TAG_NAME}({ATTRIBUTE})* *\/?|\/{TAG_NAME}) *>"

# Signs.
SMILEY = r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]"
FACE = "|".join(
    (
        r"[\^x=~<>]\.\[\^x=[^<]*<>\]|[-\^x=~<>']_[-\^x=~<>']",
        r"\([-\^x=~<>'][_.]?[-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)",
    )
)
QUOTES = rf"{APOSTROPHE}|''|[`\u2018-\u201f\u0091-\u0094\u2039\u203a\u00ab\u00bb]{{1,2}}"
DOUBLE_QUOTE = '"|&quot;'
ENTITY_SIGN = "&(HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);"
STOPS = r"[?!]+|[.\u00a1\u00bf\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002]"

RULES = (
    Rule(r"c\+\+|[cCfF]#"),
    Rule("can", ahead="not"),
    Rule("'t", ahead="is|was"),
    Rule("gon|wan", ahead="na"),
    Rule("got", ahead="ta"),
    Rule("gim|lem", ahead="me"),
    Rule(TAG, spelling.keep_blanks),
    Rule(r"&(MD|mdash|ndash);|[\u0096\u0097\u2013-\u2015]", spelling.write_dash),
    Rule(AMP, spelling.write_ampersands),
    Rule(ENTITY_SIGN),
    Rule(WORD, spelling.drop_soft_hyphens, ahead=ENDING),
    Rule(BEFORE_NOT, spelling.drop_soft_hyphens, ahead=NOT),
    Rule(WORD, spelling.drop_soft_hyphens),
    Rule(WITH_APOSTROPHE),
    Rule(f"y{APOSTROPHE}", ahead=r"\l"),
    Rule(rf"{URL}|{ADDRESS}|{MAIL}|@[a-zA-Z_][a-zA-Z_0-9]*|#{LETTER}+"),
    Rule(f"{ENDING}|{NOT}", spelling.write_closing_quote, ahead="[^A-Za-z]"),
    Rule(DATE),
    Rule(NUMBER, spelling.drop_soft_hyphens),
    Rule(RAISED),
    Rule(FRACTION, spelling.keep_blanks),
    Rule(r"[\u00bc-\u00be\u2153-\u215e]", spelling.write_fractions),
    Rule(TREEBANK, spelling.write_ampersands),
    Rule(rf"{SLASHED}|[A-Z]*\$|#"),
    Rule(CURRENCY, spelling.write_currencies),
    Rule("[A-Za-z]", ahead=rf"\.{GAP}+({STARTERS}|{TAG}){GAP}"),
    Rule(rf"({BEFORE_NUMBER})\.", ahead=rf"{GAP}?\d"),
    Rule(r"pt[EY]\.", ahead=r"\s(ltd|lim)"),
    Rule(rf"({ENDS_SENTENCE})\.", ahead=".."),
    Rule(rf"({ENDS_SENTENCE}|{INSIDE_SENTENCE})\."),
    Rule(INSIDE_SENTENCE, ahead=r"\s"),
    Rule(rf"[A-Za-z]|{ACRONYM}|{APOSTROPHE}[0-9][0-9]", ahead=GAP),
    Rule(FILE, ahead=rf"{GAP}|[.?!,]"),
    Rule(rf"{WORD}\.", spelling.drop_soft_hyphens, ahead=PAUSE),
    Rule(PHONE, spelling.write_phone),
    Rule(DOUBLE_QUOTE, spelling.write_opening_quote, ahead="[A-Za-z0-9$]"),
    Rule(DOUBLE_QUOTE, spelling.write_closing_quote),
    Rule(SMILEY, spelling.name_round_brackets, ahead="[^A-Za-z0-9]"),
    Rule(FACE, spelling.name_round_brackets),
    Rule(r"[<>()\[\]{}]|&lt;|&gt;", spelling.name_bracket),
    Rule("-+", spelling.write_dashes),
    Rule(r"\.{3,5}|(\.[ \u00a0]){2,4}\.|[\u0085\u2026]", spelling.write_ellipsis),
    Rule(rf"@+|#+|_+|\*+|(\\\*){{1,3}}|=|\/|{PAUSE}|{STOPS}"),
    Rule(rf"{WITH_NUMBERS}\.", spelling.drop_soft_hyphens, ahead=PAUSE),
    Rule(WITH_NUMBERS, spelling.drop_soft_hyphens),
    Rule(rf"{HYPHENATED}\.", ahead=PAUSE),
    Rule(HYPHENATED),
    Rule(rf"{CAPITALS}\.", spelling.write_ampersands, ahead=PAUSE),
    Rule(CAPITALS, spelling.write_ampersands),
    Rule("'", spelling.write_opening_quote, ahead=r"[A-Za-z][^ \t\n\r\u00a0]"),
    Rule(f"{ENDING}|{NOT}|{QUOTES}", spelling.write_closing_quote),
    Rule(r"<<|>>|\y"),
    Rule(r"\s+|&nbsp;|.", spelling.drop),
)
