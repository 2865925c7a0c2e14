"""The patterns that tell software from packaging: which entries, sentences, tails and suffixes go.

They were written by reading samples of Debian 12's index; the data card admits what they miss.
"""

from __future__ import annotations

import re

MIN_SYNOPSIS_WORDS = 3

_PACKAGE = r"(?:this|the|these)(?: [\w.+-]+){0,3}?(?: binary| meta| virtual| dummy)? (?:sub-?)?packages?\b"
_VERB = (
    r"(?:only |also |just |merely )*"
    r"(?:contains?|provides?|includes?|installs?|ships?|holds?|supplies|consists of|has)"
)
_KIND = (
    r"(?:development|header|headers|documentation|docs?\b|manual|man ?pages?|shared|static|dynamic|runtime|run-time|"
    r"debug|symbols|python ?[23]|perl (?:module|binding)|ruby (?:module|binding|library)|library|libraries|librairies|"
    r"common|architecture|arch-|data files|source code|sources? for|introspection|gir|typelib|examples?|"
    r"translation|locali[sz]ation|language files|plugin|binary|binaries|executables?|files needed|module files|"
    r"command[- ]line|daemon|server|client|tools|utilities|programs?|modules?|package|default version|metapackage)"
)
_SIBLING_SENTENCE = re.compile(
    rf"^(?:note that )?(?:{_PACKAGE} (?:{_VERB}|is needed|is required|is only|can be used to (?:compile|develop))\b"
    rf".*{_KIND}"
    rf"|{_PACKAGE} (?:is (?:a |the |part of|built|for|based|generated|architecture)|was (?:generated|built)|"
    r"depends|forms part|has been separated|belongs)"
    r"|this is (?:the|a|an) [^.]{0,60}(?:version|variant|flavou?r|part|half|development|runtime|library|"
    r"documentation|common|shared|binary|transitional|dummy|meta-?|virtual)\b"
    r"[^.]{0,40}(?:package|files|library|libraries|module|headers?)\b"
    r"|(?:please )?(?:see|install|refer to|look at|consider)\b.*\bpackages?\b"
    r"|(?:you|users?|developers?) (?:also )?(?:will |may |should |might |only |probably |want to |want |do not |"
    r"don't )*(?:need|install|want)\b.*\bpackages?\b"
    r"|(?:it|this|here) (?:contains|provides|are|is) (?:only )?the "
    r"(?:development|header|shared|runtime|static|documentation)\b"
    r"|(?:for|the) [^.]{0,80}\b(?:is|are) (?:in|available in|provided by|found in|part of) "
    r"(?:the )?(?:package )?\S+(?: package)?[.]?$"
    r"|(?:the|a|an) \S+ package (?:contains|provides|includes))",
    re.IGNORECASE,
)
_OWN_PARAGRAPH = re.compile(rf"^{_PACKAGE} {_VERB}\b", re.IGNORECASE)
_NOISE_LINE = re.compile(
    r"^(?:[- *]*(?:home ?page|web ?site|url|see also|upstream|author)\s*:|[<(]?https?://\S+$)", re.IGNORECASE
)
_NOT_SOFTWARE = re.compile(
    r"\b(?:transition(?:al)?|dummy|compatibility package|meta-?\s?package|debug(?:ging)? (?:symbols|files|info)|"
    r"documentation|cross-compil\w+|"
    r"\((?:docs?|dbg|examples)\)|- (?:docs?|examples)|profiling libraries|dependency package|virtual package|"
    r"source code|rust source|translations?|locali[sz]ation|language (?:pack|files)|header files only)\b|"
    r"\((?:docs?|dbg|examples)\)$|- (?:docs?|examples)$|-doc$",
    re.IGNORECASE,
)
_NOT_SOFTWARE_NAME = re.compile(
    r"-(?:docs?|dbg|dbgsym|examples|cross|prof|l10n|i18n|locales|locale|build-deps|testsuite)$|"
    r"^task-|-l10n-|-cross-|^librust-"
)
_EMPTY_PACKAGE = re.compile(
    r"\bmeta-?package\b|\bdependency package\b|\bempty (?:dependency )?package\b|\bdummy package\b", re.IGNORECASE
)
_FILES = (
    r"(?:development|dev(?:el)?|runtime|run-time|common|shared|static|dynamic|data|architecture[- ]in?dependent|game|"
    r"python ?[23]?(?:\.x)?|library|libraries|lib|headers?|plugins?|modules?|files?|base|program|binary|binaries|"
    r"tools?|utilities|utils|node\.?js|scripts|core|version|package|packages|support|bindings?|main|default|the|and|"
    r"32-?bit|64-?bit|x32|n32|n64)"
)
DASH = "[-\u2013\u2014]"
_TAIL = re.compile(rf"\s*(?:\((?:{_FILES}[\s,/&-]*)+\)|\s(?:{DASH}|:)+\s(?:{_FILES}[\s,/&-]*)+)$", re.IGNORECASE)
_LANGUAGE = re.compile(r"^(?:python3?|pypy3|elpa)-(?=..)")
_SUFFIX = re.compile(
    r"-(?:dev|data|common|utils?|bin|tools|runtime|libs?|base|core|plugins?|modules?|extras?|all|gui|cli|server|client|"
    r"daemon|headless|nox|gtk\d?|qt\d?|x11|ng|perl-dev|headers|source|examples|tests?|config|desktop|themes?|full|lite|"
    r"mysql|pgsql|sqlite3?|jni|dkms|scripts|support)$"
)
_SONAME = re.compile(r"(?<=[a-z])-?\d[\d.]*(?:[a-z]|-\d[\d.-]*|t64)?$")


def is_software(package: str, synopsis: str, body: str) -> bool:
    """False for documentation, debug symbols, translations, cross tools, sources, transitional and meta packages."""
    names = _NOT_SOFTWARE.search(synopsis) or _NOT_SOFTWARE_NAME.search(package)
    return not (names or _EMPTY_PACKAGE.search(body))


def is_about_siblings(sentence: str) -> bool:
    """Whether a sentence speaks of how the software is packaged, as in "This package contains the headers."."""
    return _SIBLING_SENTENCE.match(sentence) is not None


def is_own_paragraph(paragraph: str) -> bool:
    """Whether a paragraph opens with "This package contains" or the like."""
    return _OWN_PARAGRAPH.match(paragraph) is not None


def is_noise(line: str) -> bool:
    """Whether a line gives only a home page or its like."""
    return _NOISE_LINE.match(line) is not None


def without_tail(synopsis: str) -> str:
    """A synopsis without the tail that names a kind of file, such as "(Python 3)" or "- shared library".

    It stays as it is where fewer than three words would be left.
    """
    shorter = _TAIL.sub("", synopsis).rstrip(" -:,;")
    return shorter if len(re.findall(r"[^\W_]+", shorter)) >= MIN_SYNOPSIS_WORDS else synopsis


def stem(package: str) -> tuple[str, int]:
    """A guess at the source package's name, and how many marks of a sibling were taken off to get there."""
    name, marks = _LANGUAGE.sub("", package), 0
    while (shorter := _SUFFIX.sub("", name)) != name:
        name, marks = shorter, marks + 1
    if name.startswith("lib") and (shorter := _SONAME.sub("", name[3:])) != name[3:] and len(shorter) > 2:
        return shorter, marks + 1
    if name.startswith("lib") and marks and "-" not in name and len(name) > 6:
        return name[3:], marks
    return name, marks
