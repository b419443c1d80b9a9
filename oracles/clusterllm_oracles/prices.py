"""List prices of OpenAI's models, as data: used where none are given and it is OpenAI that is asked.

They may have changed since :data:`DATE`; the settings ``input_price`` and ``output_price`` override them. What is
cheaper in part (a cached prompt) counts in full.
"""

from __future__ import annotations

from clusterllm_plugins.endpoints import is_openai

DATE = "2025-04-14"
SOURCE = "https://openai.com/api/pricing/"

# US dollars per million tokens: (input, output).
PRICES: dict[str, tuple[float, float]] = {
    "gpt-4.1": (2.0, 8.0),
    "gpt-4.1-2025-04-14": (2.0, 8.0),
    "gpt-4.1-mini": (0.4, 1.6),
    "gpt-4.1-mini-2025-04-14": (0.4, 1.6),
    "gpt-4.1-nano": (0.1, 0.4),
    "gpt-4.1-nano-2025-04-14": (0.1, 0.4),
    "gpt-4o": (2.5, 10.0),
    "gpt-4o-2024-05-13": (5.0, 15.0),
    "gpt-4o-2024-08-06": (2.5, 10.0),
    "gpt-4o-2024-11-20": (2.5, 10.0),
    "gpt-4o-mini": (0.15, 0.6),
    "gpt-4o-mini-2024-07-18": (0.15, 0.6),
}
BATCH_SHARE = 0.5  # of the list price, by the Batch API

Prices = tuple[float | None, float | None]


def prices_of(model: str, base_url: str | None, given: Prices, share: float = 1.0) -> Prices:
    """Return input and output price in US dollars per million tokens, ``None`` where unknown.

    Args:
        model: Its name at the endpoint.
        base_url: The endpoint; ``None`` = OpenAI's own. At another one the same name may cost anything.
        given: The user's prices; where there is any, no other is taken.
        share: Of the list price that is asked.
    """
    if given != (None, None) or not is_openai(base_url) or model not in PRICES:
        return given
    per_input, per_output = PRICES[model]
    return share * per_input, share * per_output
