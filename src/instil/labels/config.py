"""What a recipe may say about how labels are stored. No numpy here, so that recipes read fast."""

from __future__ import annotations

from typing import Literal

Detail = Literal["small", "default", "fine"]
"""How finely a teacher's rows are drawn; `codec.THRESHOLDS` has the number behind each."""
