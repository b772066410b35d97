"""What a browser is given: the built pages of ``static/``, or plain ones that say how to build them.

Everything comes from this server; the content-security policy holds pages to that. Files with a hash in
their name never change and are cached for a year, everything else is asked for again each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from marketd.api.engine import Engine, SymbolInfo
from marketd.fanout.latest import LatestQuote
from marketd.model import format_ns

__all__ = ["STATIC", "docs_page", "live_page", "prefers_html", "static_route"]

STATIC = Path(__file__).parent / "static"
"""Where the page build puts its output: ``index.html``, ``docs.html``, ``assets/*-<hash>.*``."""

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:"
    ),
    "X-Content-Type-Options": "nosniff",
}
_FOREVER = "public, max-age=31536000, immutable"
_ROWS = 200

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color-scheme:light dark}"
    "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}"
    "th,td{text-align:left;padding:.2rem .6rem;border-bottom:1px solid #8884}td.n,th.n{text-align:right}"
    "tr.stale{opacity:.5}code{font-size:.95em}"
)


def prefers_html(accept: str) -> bool:
    """Whether an Accept header names text/html, and JSON not before it: by quality, then by order."""
    best: dict[str, float] = {}
    for part in accept.lower().split(","):
        kind, *attributes = (p.strip() for p in part.split(";"))
        quality = next((a[2:] for a in attributes if a.startswith("q=")), "1")
        try:
            best.setdefault(kind, float(quality))
        except ValueError:
            best.setdefault(kind, 0.0)
    html, json = best.get("text/html", 0.0), best.get("application/json", 0.0)
    if html == json and html > 0:
        return list(best).index("text/html") < list(best).index("application/json")
    return html > json


class _Assets(StaticFiles):
    async def check_config(self) -> None:
        """Nothing: the folder may be built while the server runs."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        if path.startswith("assets/"):
            response.headers["Cache-Control"] = _FOREVER
        return response


def static_route(folder: Path = STATIC) -> Mount:
    """`/static/…`, also when nothing is built yet."""
    return Mount("/static", _Assets(directory=folder, check_dir=False))


async def live_page(engine: Engine, folder: Path = STATIC) -> Response:
    """The built live page, else a plain one with the quotes of now that renews itself."""
    if (folder / "index.html").is_file():
        return FileResponse(folder / "index.html", headers={**_HEADERS, "Vary": "Accept"})
    now_ns = engine.clock.time_ns()
    infos = engine.symbols()
    rows = "".join(_row(info, engine.quote(info.symbol), now_ns - engine.stale_after_ns) for info in infos[:_ROWS])
    more = f"<p>{len(infos) - _ROWS} more symbols are not shown.</p>" if len(infos) > _ROWS else ""
    body = (
        "<h1>marketd</h1><p>The live page was not built, so this plain one stands in and renews itself every 2 "
        "seconds. Run <code>make web</code> in the source tree to build the live page; prices, history and streams "
        'work without it. See the <a href="/docs">API</a> and <a href="/health">health</a>.</p>'
        f"<p>{format_ns(now_ns)}</p><table><thead><tr><th>Symbol</th><th class=n>Last</th><th class=n>Bid</th>"
        f"<th class=n>Ask</th><th>Event time</th><th>Source</th></tr></thead><tbody>{rows}</tbody></table>{more}"
    )
    return _html("marketd", body, '<meta http-equiv="refresh" content="2">', {"Vary": "Accept"})


def _row(info: SymbolInfo, quote: LatestQuote | None, stale_before_ns: int) -> str:
    source = f"{info.source} (simulated)" if info.simulated else info.source
    if quote is None:
        cells = ["–", "–", "–"]
        time, style = "no quote yet", ""
    else:
        cells = ["–" if value is None else repr(value) for value in (quote.last, quote.bid, quote.ask)]
        stale = quote.time_event_ns < stale_before_ns
        time = format_ns(quote.time_event_ns) + (" (stale)" if stale else "")
        style = " class=stale" if stale else ""
    numbers = "".join(f"<td class=n>{cell}</td>" for cell in cells)
    return f"<tr{style}><td>{escape(info.symbol)}</td>{numbers}<td>{time}</td><td>{escape(source)}</td></tr>"


async def docs_page(document: dict[str, Any], folder: Path = STATIC) -> Response:
    """The built API reference, else a plain list made from the OpenAPI document."""
    if (folder / "docs.html").is_file():
        return FileResponse(folder / "docs.html", headers=_HEADERS)
    entries = "".join(
        f"<h3><code>{method.upper()} {escape(path)}</code></h3><p>{escape(op['summary'])}. "
        f"{escape(op.get('description', ''))}</p>{_parameters(op.get('parameters', ()))}"
        for path, methods in document["paths"].items()
        for method, op in methods.items()
    )
    body = (
        "<h1>marketd API</h1><p>The interactive reference was not built; <code>make web</code> in the source tree "
        'builds it. This list is made from <a href="/schema/openapi.json">the OpenAPI document</a>.</p>'
        f"<p>{escape(document['info']['description'])}</p>{entries}"
    )
    return _html("marketd API", body)


def _parameters(parameters: Sequence[dict[str, Any]]) -> str:
    items = "".join(f"<li><code>{escape(p['name'])}</code> {escape(p['description'])}</li>" for p in parameters)
    return f"<ul>{items}</ul>" if items else ""


def _html(title: str, body: str, head: str = "", headers: dict[str, str] | None = None) -> Response:
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>{head}'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{body}</body></html>"
    )
    return HTMLResponse(text, headers={**_HEADERS, **(headers or {})})
