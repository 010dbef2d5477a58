"""Makes ``ptb_more.jsonl`` (captions in the order in which the program read them) and ``bleu.json``.

Needs pycocoevalcap 1.2 and Java. ``ptb.jsonl``, ``cider.json`` and ``vqa.json`` beside them came with the project, made
by the same package and by the official VQA evaluation.
"""

# pycocoevalcap is not installed where types are checked.
# pyright: reportMissingImports=false

import json
import random
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

HERE = Path(__file__).parent
AWKWARD = """
it's They're can't cannot CANNOT won't 'tis 'TWAS gonna Wanna gimme lemme gotta dunno y'all o'clock d'Avignon cap'n
rock'n'roll '90s 'em 'til shouldn't've don`t boys' x's. $5.00 US$3 £20 €9,99 ¥100 3¢ 1,000 -12.5 +3 50% 1/2 3|1/2
3-1/2 1\\/2 ½ ⅔ ⅛ x² H₂O 10:30 7:15|p.m. 5/6/2014 12-31-99 May|5,|2014 (555)|123-4567 +1|555|123|4567 555.123.4567
Mr.|Smith St. U.S. U.S U.K.'s U.S.-based Canada-U.S. e.g. a.k.a. etc. vs. no.|7 no. pp.|5 Inc. pty.|ltd. PTY.|LTD.
Ph.D. Jan. ill. Ill. co.|lim plan|B.|The I.|<br>| A|b. (left) [right] {both} "quoted" "a 'single' ``ticks'' “curly”
‘single’ ‹x› «y» „low” it’s — – --- ----- ... ..... …  .|.|. ?! ; & AT&T AT&amp;T S&amp;P-500 &lt;b&gt; &quot;q&quot;
&apos;s &nbsp; &mdash; caf&eacute; &#39; &copy; @home #selfie #2 http://a.com/a?b=c https://x.y.org/(z) www.a-b.co/x,
example.com Example.COM me@example.com <me@x.org> a@b ftp://a.b and/or w/ C++ F# x+y 747-400 6'2" 5ft. 20°C a_b a*b
^_^ :) :-( ;P =D >:) (^_^) <b>bold</b> <a|href="x|y">z</a> <!--|c|--> <3 << naïve El|Niño 日本語 Привет ΣΟΦΟΣ 😀 soft\u00adly
zero\u200bwidth photo.jpg a.b.txt end.Next wait...what so,so -LRB- ** // \\ | = ™ ° · -- Ⓐ İstanbul ſo K
"""
FORMS = [*AWKWARD.split(), "non\u00a0break"]


def captions(number: int) -> list[str]:
    draw = random.Random(2014)
    forms = [form.replace("|", " ") for form in FORMS]
    plain = ["a", "The", "dog", "two", "Red", "s", "t", "7", "'", '"', ".", ",", "-", "/", "&", ":"]
    glues = ["", "", " ", " ", " ", ".", "-", "'", ", "]
    made = []
    for _ in range(number):
        parts = [draw.choice(forms if draw.random() < 0.6 else plain) for _ in range(draw.randrange(1, 8))]
        made.append("".join(part + draw.choice(glues) for part in parts))
    return made


def tokens(lists: dict[str, list[str]]) -> dict[str, list[str]]:
    return PTBTokenizer().tokenize(
        {key: [{"caption": text} for text in texts] for key, texts in lists.items()}
    )


made = captions(400)
cut = tokens({str(at): [caption] for at, caption in enumerate(made)})
with (HERE / "ptb_more.jsonl").open("w", encoding="utf-8") as file:
    for at, caption in enumerate(made):
        line = json.dumps({"caption": caption, "tokens": cut[str(at)][0]}, ensure_ascii=False)
        file.write(line + "\n")

cider = json.loads((HERE / "cider.json").read_text(encoding="utf-8"))
references = tokens(cider["references"])
candidates = tokens({key: [caption] for key, caption in cider["candidates"].items()})
corpus, by_key = Bleu(4).compute_score(references, candidates, verbose=0)
scores = {key: list(of_key) for key, of_key in zip(references, zip(*by_key, strict=True), strict=True)}
(HERE / "bleu.json").write_text(json.dumps({"corpus": corpus, "scores": scores}))
