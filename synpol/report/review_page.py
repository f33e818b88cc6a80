"""Write what verdicts of reviewers say about a result, as a page and as a part of the report."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment

#: shares in their order, with their names for people
NAMES = {
    "precision": "precision",
    "sides": "side accuracy",
    "right": "right in all",
    "recall": "recall",
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>synpol review: {{ title }}</title><style>
  body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; color: #222; }
  td, th { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
  table { border-collapse: collapse; margin: .5rem 0; } .quiet { color: #666; }
</style></head><body><h1>{{ title }}</h1>
{{ part | safe }}
</body></html>
"""


def shown_interval(one: Mapping[str, Any]) -> str:
    """Write an estimate with its interval of 95 %, in percent."""
    value, low, high = (f"{100 * one[k]:.1f}" for k in ("value", "low", "high"))
    return f"{value} % ({low} to {high} %)"


def review_part(quality: Mapping[str, Any]) -> str:
    """Return the part of a report about verdicts, as HTML.

    Parameters
    ----------
    quality : mapping
        Numbers of `synpol.review`.
    """
    text = files("synpol.report").joinpath("review.html").read_text(encoding="utf-8")
    return _drawn(text, q=quality, names=NAMES, interval=shown_interval)


def review_page(quality: Mapping[str, Any], title: str) -> str:
    """Return a page about verdicts alone, for a result without a truth."""
    return _drawn(_PAGE, title=title, part=review_part(quality))


def _drawn(template: str, **values: object) -> str:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(**values)
