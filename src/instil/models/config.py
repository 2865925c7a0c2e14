"""What a recipe says of a model behind a server."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from instil.core.config import Config


class ServedConfig(Config):
    """A model behind an OpenAI-compatible completions endpoint.

    `url`: as "http://localhost:8000/v1". `model`: its name there (the only one that the server lists when not given).
    `revision`: your mark for what the server runs, where its name does not say; labels of another one are refused.
    `key_env`: the environment variable that holds the key. `concurrency`: requests at a time; `requests_per_minute`
    and `tokens_per_minute` bound them further. A request is tried again `retries` times, later each time, and given up
    after `timeout_s`. Prices are in USD for a million tokens. `parameters`: the model's size, for the report.
    """

    url: str = Field(pattern=r"^https?://")
    model: str | None = None
    revision: str | None = None
    key_env: str | None = None
    concurrency: PositiveInt = 8
    requests_per_minute: PositiveFloat | None = None
    tokens_per_minute: PositiveFloat | None = None
    retries: NonNegativeInt = 6
    timeout_s: PositiveFloat = 120.0
    usd_per_million_input: NonNegativeFloat = 0.0
    usd_per_million_output: NonNegativeFloat = 0.0
    parameters: NonNegativeInt = 0
