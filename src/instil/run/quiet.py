"""Nothing of other people's libraries on stderr: what matters to a user, instil says itself.

Their remarks are about choices that instil made ("Removed shared tensor ... while saving") or about their own next
release (FutureWarning), and a user can do nothing about either. `python -W default -m ...` shows the warnings again.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings


def quiet_libraries() -> None:
    """Call once, before any of them is imported. What the user has set in the environment stays."""
    # Tokenizers warn about forks; transformers has a log handler of its own.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # Without any handler, Python writes every library's warnings to stderr.
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())
