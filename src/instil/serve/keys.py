"""API keys: made here, shown once, kept as hashes only.

A key is 256 random bits, so one round of SHA-256 is enough to keep it: nobody can try them all. A line of the file is
"NAME HASH"; the file may be read by its owner only.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from instil.core import publish
from instil.core.errors import ConfigError

PREFIX = "instil-"


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> dict[str, str]:
    """Hashes by name. Raises `ConfigError` for a file that is missing or of another form."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file of keys; make one with: instil serve-key {path} NAME")
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), start=1):
        match = re.fullmatch(r"(\S+) ([0-9a-f]{64})", line.strip())
        if match is None:
            raise ConfigError(f'{path}:{number}: is no "NAME HASH"; remove the line and make the key again')
        found[match[1]] = match[2]
    if not found:
        raise ConfigError(f"{path}: holds no key; make one with: instil serve-key {path} NAME")
    return found


def add_key(path: Path, name: str) -> str:
    """A new key called `name`, its hash added to the file. The key itself is kept nowhere."""
    if not re.fullmatch(r"\S+", name):
        raise ConfigError(f"{name!r} is no name for a key; use letters, digits, - and _")
    kept = read_keys(path) if path.is_file() else {}
    if name in kept:
        raise ConfigError(f"{path}: has a key {name!r} already; remove its line, or choose another name")
    key = PREFIX + secrets.token_urlsafe(32)
    lines = [f"{each} {digest}\n" for each, digest in {**kept, name: _hash(key)}.items()]
    publish.write_text(path, "".join(lines))
    path.chmod(0o600)
    return key


def name_of(key: str, known: dict[str, str]) -> str | None:
    """Whose key it is, None for nobody's. Takes as long for a wrong key as for a right one."""
    digest = _hash(key)
    found = None
    for name, kept in known.items():
        if hmac.compare_digest(digest, kept):
            found = name
    return found
