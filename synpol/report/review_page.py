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
#: shares that two results are compared by, and names of both
COMPARED, BOTH = ("precision", "sides", "recall"), ("before", "after")
_COMPARED = """<h2>Where verdicts were held back</h2>
<p>{{ c.places }} places, {{ c.real }} of them synapses; intervals of 95 %.</p>
<table>
<tr><th></th>{% for k in both %}<th>{{ k }}: {{ c.folders[k] }}</th>{% endfor %}</tr>
{% for key in compared %}
<tr><td>{{ names[key] }}</td>
{% for k in both %}<td>{{ interval(c[k][key]) if c[k][key] else "not known" }}</td>{% endfor %}</tr>
{% endfor %}
<tr><td>synapses at other places</td>
{% for k in both %}<td>{{ c[k].elsewhere }}</td>{% endfor %}</tr>
</table>
<p>Only the newer result is right at {{ c.better }} places, only the older one at {{ c.worse }}
(McNemar's exact test: p = {{ "%.2g" | format(c.p) }}).</p>
<p class="quiet">{{ c.blind }}</p>
"""
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


def compare_page(comparison: Mapping[str, Any]) -> str:
    """Return a page about two results at the same places.

    Parameters
    ----------
    comparison : mapping
        Numbers of `synpol.review.compare`, and ``folders`` of both results.
    """
    part = _drawn(
        _COMPARED, c=comparison, names=NAMES, interval=shown_interval, compared=COMPARED, both=BOTH
    )
    return _drawn(_PAGE, title="before and after", part=part)


def _drawn(template: str, **values: object) -> str:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(**values)
