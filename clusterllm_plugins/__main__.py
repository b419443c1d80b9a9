"""``python -m clusterllm_plugins``: the command ``clusterllm``."""

from __future__ import annotations

from clusterllm_plugins.cli import main

if __name__ == "__main__":
    main()
