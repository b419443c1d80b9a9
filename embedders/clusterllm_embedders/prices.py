"""List prices of OpenAI's embedding models, as data: used where none is given and it is OpenAI that is asked.

They may have changed since :data:`DATE`; the setting ``input_price`` overrides them.
"""

from __future__ import annotations

from clusterllm_plugins.endpoints import is_openai

DATE = "2026-07-03"
SOURCE = "https://developers.openai.com/api/docs/pricing"

# US dollars per million tokens.
PRICES: dict[str, float] = {
    "text-embedding-3-small": 0.02,
    "text-embedding-3-large": 0.13,
    "text-embedding-ada-002": 0.1,
}


def price_of(model: str, base_url: str | None, given: float | None) -> float | None:
    """Return US dollars per million tokens, ``None`` where unknown.

    Args:
        model: Its name at the endpoint.
        base_url: The endpoint; ``None`` = OpenAI's own. At another one the same name may cost anything.
        given: The user's price, which no other overrides.
    """
    return PRICES.get(model) if given is None and is_openai(base_url) else given
