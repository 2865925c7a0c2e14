"""The pages that are made from the code are up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_command_line_page_says_what_help_says() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "tools" / "build_cli_docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
