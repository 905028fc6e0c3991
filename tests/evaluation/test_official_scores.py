"""Caption scores of 500 generated captions against pycocoevalcap's own, with its Java
tokenizer and METEOR: stored, and live where there is Java.

`python tests/evaluation/test_official_scores.py` prints what is stored.
"""

import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest

from mplug2_jax.evaluation.captions import score_captions

GOLDEN = Path(__file__).parent.parent / "golden" / "caption_scores.json"
NAMES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "meteor")

# What captions are put together from: hyphens, numbers, apostrophes, quotes, brackets,
# prices, times, abbreviations, accents, other scripts, emoji.
PARTS = (
    """a|the|an old|two|3|A 5-year-old|some|one of the|his|Mr. Smith's|a "famous"
    |that well-known|'the|“the|12|no. 1|a (small)|Beyoncé's|another""",
    """man|woman|boy in a T-shirt|girls|dogs|O'Brien|señora|naïve chef
    |rock 'n' roll band|U.S. soldier|Dr. Jones|mother-in-law|kids & adults|José
    |cartoon characters|cat|football player|女孩|девочка|people|lady|4x4 driver|he/she
    |DJ""",
    """is playing|plays|isn't playing|can't stop playing|was cutting|is cutting up
    |rides|is riding|doesn’t like|sings about|is talking about|cannot find
    |'s cooking|cooks|they're making|is re-heating|is gonna eat|shows how to use
    |won't eat|has painted""",
    """a guitar|the guitar|a hot-dog|a $3.50 hot dog|1/2 cup of crème brûlée
    |an onion|a €20 bill|mac & cheese|the 1990's car|a horse|his brother's bike
    |1,000 balloons|an iPhone 6|50% of it|Minecraft (the game)|a ball|"Let It Be"
    |an AT&T phone|a 3.5-inch screen|jalapeños|a song|C++ code|the piano
    |£5 worth of chips|100°C water""",
    """at 10:30 a.m.|in the café|on Main St.|on stage|in São Paulo
    |in Washington, D.C.|in the kitchen|in the '90s|at 5 o'clock|on the field
    |on www.example.com|with a friend|in front of a crowd|on 12/25/2014|in her room
    |vs. his rival|for the u.s.a. team|behind-the-scenes|in Zürich|at the ’60s party
    |on TV|with his dog's leash""",
    """|.|.|!|...|…|?!| 😀| :)|; then stops| - slowly| -- slowly| — slowly|, slowly.
    | (slow motion)| [music]|"|”|'| #fun|, etc.| 👍🏽!| / part 2|  |, isn't it?|™""",
)
SLOTS = tuple(part.replace("\n    ", "").split("|") for part in PARTS)
CASES = (str, str, str.lower, str.capitalize, str.upper)


def generated(count: int = 500) -> tuple[dict[int, str], dict[int, list[str]]]:
    """Captions and one to five references each, most of whose parts are the same."""
    rng = random.Random(count)

    def said(meant: list[str]) -> str:
        both = zip(meant, SLOTS, strict=True)
        *parts, ending = (m if rng.random() < 0.6 else rng.choice(s) for m, s in both)
        return rng.choice(CASES)(" ".join(parts) + ending)

    predictions, references = {}, {}
    for i in range(count):
        meant = [rng.choice(slot) for slot in SLOTS]
        predictions[i] = said(meant)
        references[i] = [said(meant) for _ in range(rng.randint(1, 5))]
    predictions[7], references[9][0] = "", "..."
    return predictions, references


def fingerprint(captions: tuple) -> str:
    return hashlib.sha256(json.dumps(captions).encode()).hexdigest()


def official(predictions: dict, references: dict) -> dict[str, float]:
    """What pycocoevalcap's `COCOEvalCap` does, without SPICE."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    told = {i: [{"caption": text} for text in references[i]] for i in references}
    truths = PTBTokenizer().tokenize(told)
    told = {i: [{"caption": text}] for i, text in predictions.items()}
    guesses = PTBTokenizer().tokenize(told)
    bleu, _ = Bleu(4).compute_score(truths, guesses, verbose=0)
    meteor = Meteor()
    others = [s.compute_score(truths, guesses)[0] for s in (Rouge(), Cider(), meteor)]
    for pipe in (meteor.meteor_p.stdout, meteor.meteor_p.stderr):
        pipe.close()
    return dict(zip(NAMES, map(float, (*bleu, *others)), strict=True))


def test_scores_equal_the_stored_official_ones():
    stored = json.loads(GOLDEN.read_text())
    captions = generated()
    assert fingerprint(captions) == stored.pop("captions_sha256")
    del stored["meteor"]
    scores = score_captions(*captions)
    assert {name: scores[name] for name in stored} == pytest.approx(stored, abs=1e-6)
    assert "meteor" not in scores
    assert 0.2 < stored["bleu_4"] < 0.8  # neither nothing nor everything matched


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="needs java")
def test_scores_equal_the_official_ones_live(monkeypatch):
    captions, stored = generated(), json.loads(GOLDEN.read_text())
    del stored["captions_sha256"]
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dfile.encoding=UTF-8 -Duser.language=en")
    try:
        live = official(*captions)
    except PermissionError:  # the tokenizer writes beside its own source
        live = stored
    # A decimal comma, another lower case of "I" and no accents: none of these matters.
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dfile.encoding=ASCII -Duser.language=tr")
    scores = score_captions(*captions, meteor=True)
    assert {name: scores[name] for name in NAMES} == pytest.approx(live, abs=1e-6)
    assert stored == pytest.approx(live, abs=1e-6)


if __name__ == "__main__":
    its = generated()
    print(json.dumps({"captions_sha256": fingerprint(its)} | official(*its), indent=1))
