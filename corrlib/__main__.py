"""``python -m corrlib`` is the ``corrlib`` command."""

from __future__ import annotations

from corrlib.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
