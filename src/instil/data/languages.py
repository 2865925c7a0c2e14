"""Which language a text is in, as far as its script and its most frequent little words tell. No model, no download.

Little words are told apart by counting those that each language has and others have not; a text with too few of them
has no language here, which is better than a wrong one.
"""

from __future__ import annotations

import re
from collections import Counter

_SCRIPTS = (
    ("Cyrillic", "\u0400-\u052f"),
    ("Greek", "\u0370-\u03ff"),
    ("Arabic", "\u0600-\u06ff"),
    ("Hebrew", "\u0590-\u05ff"),
    ("Devanagari", "\u0900-\u097f"),
    ("Thai", "\u0e00-\u0e7f"),
    ("Japanese", "\u3040-\u30ff"),
    ("Korean", "\uac00-\ud7af"),
    ("Chinese", "\u4e00-\u9fff"),
)
_OF_SCRIPT = re.compile("|".join(f"(?P<{name}>[{letters}])" for name, letters in _SCRIPTS))
_LITTLE_WORDS = {
    "English": "the and of to is that for with was are this from have which not been they their",
    "German": "der die und das ist nicht ein eine mit dem den von auf für sich auch wird sind",
    "French": "le les des est une dans pour que qui sur pas avec plus sont cette aux ses être",
    "Spanish": "el los las una que por con para del como pero más este sus entre cuando muy",
    "Italian": "il che di gli per una con sono della nel alla dei anche più questo delle",
    "Portuguese": "o os uma não para com mais dos das como mas foi ao ele são também pela",
    "Dutch": "het een van niet zijn voor met aan ook naar maar deze worden bij uit",
}
_LANGUAGES_OF_WORD: dict[str, list[str]] = {}
for _language, _words in _LITTLE_WORDS.items():
    for _word in _words.split():
        _LANGUAGES_OF_WORD.setdefault(_word, []).append(_language)
_LEAST_HITS = 3
_SCRIPT_SHARE = 0.3


def language_of(text: str) -> str | None:
    """The language, or the script where that is not Latin; None where too little tells."""
    letters = sum(map(str.isalpha, text)) or 1
    scripts = Counter(match.lastgroup for match in _OF_SCRIPT.finditer(text))
    if scripts:
        script, count = scripts.most_common(1)[0]
        # Japanese is written with Chinese characters too, Chinese never with kana.
        if script == "Chinese" and scripts["Japanese"]:
            return "Japanese"
        if count > _SCRIPT_SHARE * letters:
            return script
    return _latin(text)


def _latin(text: str) -> str | None:
    hits: Counter[str] = Counter()
    for word in re.findall(r"[^\W\d_]+", text.lower()):
        known = _LANGUAGES_OF_WORD.get(word, ())
        for language in known:
            hits[language] += 1
    ranked = hits.most_common(2)
    if not ranked or ranked[0][1] < _LEAST_HITS:
        return None
    clear = len(ranked) == 1 or ranked[0][1] >= 2 * ranked[1][1]
    return ranked[0][0] if clear else None
