"""Penn-Treebank-like tokenisation of captions for the COCO metrics, without Java.

The COCO caption scores are defined on the tokens of Stanford's PTBTokenizer (3.4.1,
options -lowerCase -preserveLines) minus a list of punctuation marks. The rules below
were written from that program's observed output. At each position the longest match of
all rules wins, at equal length the earlier rule; what no rule matches is one token per
symbol. Known to differ: letters of rare scripts, markup inside a caption, version
numbers ("2.x"), and a sentence that ends in a single letter and a full stop, which that
program reads together with the next line of its file; on technical prose, which is rich
in these, 1 line in 700 differs.
"""

import re
from collections.abc import Iterator

# COCO's list of dropped tokens. Brackets are no part of it in practice: the list has
# them in upper case ("-LRB-") and tokens are lower case.
_DROPPED = frozenset(
    ("''", "'", "``", "`", '"', ".", "...", "?", "!", ",", ":", ";", "-", "--")
)

# Letters with their combining marks; superscripts, fractions, circled numbers and
# whatever lies above U+FFFF, partly alphanumeric to Python, are no letters here.
_MARK = (
    "\u0300-\u036f\u0591-\u05c7\u064b-\u065e\u0900-\u0963"
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"
)
_NO_LETTER = (
    "_\xb2\xb3\xb9\xbc-\xbe\u2070-\u209c\u2150-\u2182\u2460-\u2793"
    "\u3007\u3021-\u3029\u3200-\u33ff\U00010000-\U0010ffff"
)
_LETTER = rf"(?:[^\W\d{_NO_LETTER}]|[{_MARK}])"
_ALNUM = rf"(?:[^\W{_NO_LETTER}]|[{_MARK}])"
_QUOTE = "['\u2019]"
_AUXILIARY = rf"(?i:'(?:s|m|d|re|ve|ll)(?!{_LETTER})|\u2019(?:s|m|d|re|ve|ll))"
_ACRONYM = r"[A-Za-z](?:\.[A-Za-z])*\."
_NUMBER = r"(?:\d*(?:[.:,]\d+)+|\d+)"
_PATH = r"[^\s\"<>|(){}]*[^\s\"<>|(){}.,;:!?-]"


def _any(words: str) -> str:
    return "|".join(sorted(words.split(), key=len, reverse=True))


# Words that keep their full stop: always, when capitalised, before a number.
_ABBREVIATION = _any(
    """adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bancorp bhd bldg
    blvd brig bros calif capt cf cmdr co col colo conn corp cos cpl ct dec dept det dr
    elec esq est etc ext feb fla fri ft ga gen gov hon inc ind insp intl invt jan jos jr
    jul jun kan kans ky lt ltd maj mar md messrs mich minn mlle mme mo mon mont mr mrs
    ms mt natl neb nev nov oct okla penn ph ph.d plc pres prof pvt rd rep rev rt sen sep
    sept seq sgt sq sr st ste supt tel tenn thu thurs treas tue tues univ va vs vt wed
    wis wisc wm wyo"""
)
_STATE = _any("Ark Del Ill La Mass Miss Ore Pa Tex Wash")
_NUMBERED = _any("art ca fig figs no nos op pp prop")
# After a single letter and a full stop these begin a new sentence ("plan B. The end").
_OPENING = _any(
    """A About After An As At But He Her Here However If In It Last Many More Now Once
    One Other Our She Since Some Such That The Their Then There These They This We What
    When While Yet You"""
)

# A rule with groups yields its groups, another one its whole match.
_RULES = tuple(
    re.compile(rule)
    for rule in (
        # can not, gon na, 't is, do n't
        rf"(?i:(can)(not)|(wan|gon)(na)|(got)(ta)|(lem|gim)(me))(?!{_AUXILIARY})",
        rf"(?i:('t)(is|was)|(more)({_QUOTE}n)(?!{_LETTER}))",
        rf"([A-Za-z]*[A-MO-Za-mo-z])([nN][`'\u2019][tT])(?!{_LETTER})",
        rf"{_AUXILIARY}|[nN]{_QUOTE}[tT](?!{_LETTER})",
        # o'clock, y' all, rock 'n' roll, the '90s, d'artagnan, hawai'i
        rf"(?i:o{_QUOTE}clock|c'mon|li'l|ol{_QUOTE}|(?![djly]{_AUXILIARY})[djly]{_QUOTE})",
        rf"(?i:{_QUOTE}(?:cause|em|til(?!{_LETTER})|n{_QUOTE}|n(?!{_LETTER}))|\u2019n)",
        rf"{_QUOTE}(?:[2-9]0[sS]|\d\d)(?!{_ALNUM})",
        rf"[A-Za-z]+[aeiouyAEIOUY]{_QUOTE}[aeiouAEIOU][A-Za-z]*",
        # mr. smith, u.s., Mass., no. 5
        rf"(?i:{_ABBREVIATION})\.|(?:{_STATE}|{_STATE.upper()})\.",
        rf"[A-Za-z]\.{_ACRONYM}|[A-Za-z]\.(?!\s+(?:{_OPENING})\s)",
        rf"(?i:{_NUMBERED})\.(?=\s?\d)|{_LETTER}{_ALNUM}*(?:-{_ALNUM}+)*\.(?=[,;:])",
        # words, file.txt, t-shirt, 3.5-inch, u.s.-based, his/her, AT&T, C++
        rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*",
        rf"(?:[dlnoDLNO]{_QUOTE}{_LETTER}(?={_LETTER}))?{_ALNUM}+"
        rf"(?:[-_\u2010\u2011](?:[dloDLO]{_QUOTE}{_LETTER}(?={_LETTER}))?{_ALNUM}+)*",
        rf"[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:[A-Za-z]\.{_ACRONYM}|[A-Za-z0-9]+))+",
        r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}",
        r"[A-Z]+(?:&[A-Z]+)+|[Cc](?:\+\+|#)|[A-Z]{1,2}\$",
        # 1,000.5, 10:30, 2 1/2, 12/25/2014, 555-123-4567
        rf"[-+]?{_NUMBER}",
        r"(?:\d{1,4}[- ])?\d{1,4}/\d{1,4}",
        r"\d{1,2}(?:-\d{1,2}-|/\d{1,2}/)\d{2,4}",
        r"(?:\(\d{2,3}\)[ -]?|(?:\+?\d{2,4}[- ])?\d{2,4}[- ])\d{3,4}[- ]?\d{3,5}",
        # addresses, tags, smileys
        rf"(?i:https?)://[^\s\"<>|(){{}}]+\.{_PATH}",
        rf"(?i:(?:[a-z0-9]+\.)+(?:com|net|org|edu|gov|co\.uk))/[^\s/]{_PATH}",
        rf"(?i:www)\.(?:[^\s\"<>|.!?(){{}},]+\.)+[A-Za-z]{{2,4}}(?:/[^\s/]{_PATH})?",
        r"[A-Za-z0-9][^\s\"<>()|]*@[^\s\"<>(){}|]*[^\s\"<>(){}|.]",
        rf"@[A-Za-z_][A-Za-z0-9_]*|\#{_LETTER}+|&(?:amp|[lg]t|quot|nbsp|[mn]dash|\#\d+);",
        r"<(?:/?[A-Za-z][A-Za-z0-9:._-]*(?:\s[^<>]*)?/?|[!?][^<>]*)>",
        r"[<>]?[:;=]['\u2019]?[-o*]?[()DPOdp|\\{@\[\]](?![A-Za-z0-9])|\^_\^|>_<|-_-",
        # runs of one mark
        r"[?!]+|@+|\#+|\*+|_+|<<|>>|-+|\.\.\.|''",
    )
)

# Lower-case token -> what the metrics see.
_BRACKET_NAMES = ("-lrb-", "-rrb-", "-lsb-", "-rsb-", "-lcb-", "-rcb-")
_RENAMED = {
    **dict(zip("()[]{}", _BRACKET_NAMES, strict=True)),
    **dict(zip("\xa2\xa3\xa4\u20ac", ("cents", "#", "$", "$"), strict=True)),
    **dict(zip("\xbc\xbd\xbe", ("1/4", "1/2", "3/4"), strict=True)),
    **dict(zip("\u2153\u2154", ("1/3", "2/3"), strict=True)),
    **dict(zip(("&amp;", "&lt;", "&gt;"), "&<>", strict=True)),
    **{f"\u2019{word}": f"'{word}" for word in ("s", "m", "d", "re", "ve", "ll")},
    **dict.fromkeys(("&quot;", "&nbsp;", "&ndash;", "&mdash;", "---", "----"), "--"),
    "n\u2019t": "n't",
}
_BRACKETS = str.maketrans({mark: _RENAMED[mark] for mark in "()"} | {" ": "\xa0"})
# Symbols that are tokens of their own; other marks (controls, newer symbols, everything
# above U+FFFF such as emoji) are dropped, as are soft hyphens.
_SYMBOL = re.compile(
    r"[!-/:-@\[-`{-~\xa1-\xa9\xac\xae-\xb4\xb6-\xb9\xbc-\xbf\xd7\xf7\u2016\u2017\u201a"
    r"\u201e\u2020-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044\u2070\u2074-\u208e"
    r"\u20a4\u20ac\u2100-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20"
    r"\uff3b-\uff65\uffe0\uffe1\uffe5\uffe6]"
)
_PLAIN_WORD = re.compile(r"(?!cannot|gonna|wanna|gotta|lemme|gimme)[a-z]+(?=\s|$)")


def _scan(text: str) -> Iterator[str]:
    """Yields the raw tokens of `text`, dropped ones included."""
    position = 0
    while position < len(text):
        match = _PLAIN_WORD.match(text, position)  # nearly every word of a caption
        if match is None:
            found = [m for rule in _RULES if (m := rule.match(text, position))]
            match = max(found, key=re.Match.end, default=None)
        if match is None:
            if _SYMBOL.match(text, position):
                yield text[position]
            position += 1
            continue
        yield from filter(None, match.groups() or (match[0],))
        position = match.end()


def ptb_tokenize(text: str) -> list[str]:
    """Splits a caption into the tokens the COCO caption metrics count.

    Lower case; punctuation marks dropped; clitics split ("do n't", "it 's", "can not");
    hyphens and slashes kept inside words; numbers, times, prices, abbreviations and web
    addresses kept whole; round brackets become "-lrb-" and "-rrb-".
    """
    tokens = []
    for raw in _scan(text.replace("\xad", "").replace("&apos;", "'")):
        token = raw.lower()
        token = _RENAMED.get(token, token.translate(_BRACKETS) if token[1:] else token)
        if token not in _DROPPED:
            tokens.append(token)
    return tokens
