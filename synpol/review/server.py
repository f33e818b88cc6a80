"""Serve the page on which reviewers judge, beside the scene and under the same secret."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

import neuroglancer
import tornado.web

from synpol.errors import InputError
from synpol.review.cutter import Cutter
from synpol.review.desk import Desk, Item
from synpol.review.tiles import Tile
from synpol.review.verdicts import Verdict

#: most items of one answer, and most verdicts of one request
MOST = 200
#: most viewers, one for each reviewer who opens the scene
VIEWERS = 50
_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
#: the page loads nothing but itself and pictures that it was sent
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


class ReviewPages:
    """Handlers of the review page.

    Parameters
    ----------
    desk : Desk
    cutter : Cutter
        Cuts the tiles of the desk's items.
    about : dict
        What the page shows about the result: ``title``, ``reviewer``, ``extent`` (nm), ``sides``.
    """

    def __init__(self, desk: Desk, cutter: Cutter[Item], about: dict[str, Any]) -> None:
        self.desk, self.cutter, self.about = desk, cutter, about
        # one thread: the desk gives to one reviewer at a time anyway
        self.threads = ThreadPoolExecutor(1, "desk")
        self._viewers: dict[str, tuple[neuroglancer.Viewer, str]] = {}

    def handlers(self, token: str, viewer: neuroglancer.Viewer) -> list[Any]:
        """Return the handlers, for `synpol.scene.server.scene_server`."""
        self._token, self._viewer = token, viewer
        at = {"pages": self}
        return [
            (rf"/review/{token}/(page\.css|page\.js|pictures\.js|words\.js|)", _File, at),
            (rf"/review/{token}/about", _About, at),
            (rf"/review/{token}/next", _Next, at),
            (rf"/review/{token}/item/([a-z]+)/([0-9]{{1,18}})", _Item, at),
            (rf"/review/{token}/tile/([a-z]+)/([0-9]{{1,18}})", _Tile, at),
            (rf"/review/{token}/verdicts", _Verdicts, at),
            (rf"/review/{token}/quality", _Quality, at),
            (rf"/review/{token}/scene", _Scene, at),
        ]

    async def at_desk[Answer](self, ask: Callable[[], Answer]) -> Answer:
        """Do something at the desk, without keeping other requests waiting."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, ask)

    def scene_for(self, reviewer: str, place: list[float]) -> str:
        """Move a reviewer's own scene to a place (z, y, x; nm), and return the way to it."""
        if reviewer not in self._viewers:
            if len(self._viewers) >= VIEWERS:
                self._viewers.pop(next(iter(self._viewers)))
            name = f"{self._token}-{secrets.token_hex(4)}"  # is kept out of logs as the secret is
            own = neuroglancer.Viewer(token=name)
            own.set_state(self._viewer.state)
            self._viewers[reviewer] = own, f"/v/{name}/"
        own, way = self._viewers[reviewer]
        with own.txn() as state:
            nm = [1e9 * scale for scale in state.dimensions.scales]
            state.position = [p / n for p, n in zip(place[::-1], nm, strict=True)]
        return way

    def close(self) -> None:
        """End the threads."""
        self.threads.shutdown(wait=True, cancel_futures=True)
        self.cutter.close()


class _Page(tornado.web.RequestHandler):
    """Answer in JSON; wrong input gets a message, with status 400."""

    pages: ReviewPages

    def initialize(self, pages: ReviewPages) -> None:
        self.pages = pages

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Security-Policy", _POLICY)

    def answer(self, content: object) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(content))

    def write_error(self, status_code: int, **more: Any) -> None:
        error = more.get("exc_info", (None, None, None))[1]
        if isinstance(error, InputError):
            self.set_status(400)
            self.answer({"error": str(error)})
        else:
            self.answer({"error": self._reason})

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        if not isinstance(error, InputError):
            super().log_exception(kind, error, trace)

    def text(self, name: str, default: str = "") -> str:
        """Return an argument of the address."""
        return self.get_query_argument(name, default)[:2000]

    def content(self) -> dict[str, Any]:
        """Return the JSON object that was sent."""
        try:
            sent = json.loads(self.request.body)
        except (ValueError, RecursionError):
            sent = None
        if not isinstance(sent, dict):
            raise InputError("a JSON object is expected")
        return sent


class _File(_Page):
    """Send the page itself."""

    def get(self, name: str) -> None:
        name = name or "page.html"
        self.set_header("Content-Type", f"{_KINDS[name.rpartition('.')[2]]}; charset=utf-8")
        self.finish(files("synpol.review").joinpath(name).read_bytes())


class _About(_Page):
    """Say what is reviewed, and in which orders."""

    def get(self) -> None:
        self.answer({**self.pages.about, "orders": self.pages.desk.orders()})


class _Next(_Page):
    """Say what a reviewer shall look at next, and begin to cut it."""

    async def get(self) -> None:
        order, reviewer = self.text("order", "sample"), self.text("reviewer")
        names = ("z", "y", "x", "neuron")
        given = {n: self.text(n) for n in names if self.text(n)}
        skip = [_item(part) for part in self.text("skip").split(",") if part]
        try:
            count = min(MOST, max(1, int(self.text("count", "4"))))
        except ValueError:
            raise InputError("count is expected to be a number") from None
        desk = self.pages.desk

        def ask() -> list[dict[str, Any]]:
            items = desk.next_items(order, reviewer, count, given, skip)
            for item in items:
                self.pages.cutter.tile(item)
            return [desk.describe(item) for item in items]

        self.answer(await self.pages.at_desk(ask))


class _Item(_Page):
    """Describe one item as it is now."""

    async def get(self, kind: str, row: str) -> None:
        item = Item(kind, int(row))
        self.answer(await self.pages.at_desk(lambda: self.pages.desk.describe(item)))


class _Tile(_Page):
    """Send the pictures of an item."""

    async def get(self, kind: str, row: str) -> None:
        item = Item(kind, int(row))
        self.pages.desk.ends_of(item)  # refuses what there is not
        tile = await asyncio.wrap_future(self.pages.cutter.tile(item))
        self.answer(_described(tile))


class _Verdicts(_Page):
    """Keep verdicts; the answer comes when they are on the disk."""

    async def post(self) -> None:
        sent = self.content().get("verdicts")
        if not isinstance(sent, list) or len(sent) > MOST:
            raise InputError(f"at most {MOST} verdicts are expected")
        verdicts = [_verdict(one) for one in sent]
        added = await self.pages.at_desk(lambda: self.pages.desk.store.add(verdicts))
        self.answer({"added": added})


class _Quality(_Page):
    """Say how good the result is by the verdicts so far."""

    async def get(self) -> None:
        self.answer(await self.pages.at_desk(self.pages.desk.quality))


class _Scene(_Page):
    """Move a reviewer's scene to a place, and say the way to it."""

    def post(self) -> None:
        sent = self.content()
        try:
            place = [float(p) for p in sent["place"]]
            reviewer = str(sent["reviewer"])[:80]
        except (KeyError, TypeError, ValueError):
            place = []
        if len(place) != 3 or not all(abs(p) < 2**53 for p in place):
            raise InputError("place (z, y, x; nm) and reviewer are expected")
        self.answer({"way": self.pages.scene_for(reviewer, place)})


def _item(text: str) -> Item:
    kind, _, row = text.partition(":")
    if not (row.isascii() and row.isdigit() and len(row) < 19):
        raise InputError(f"{text!r:.40} is no item; KIND:NUMBER is expected")
    return Item(kind, int(row))


def _verdict(sent: object) -> Verdict:
    """Make a verdict of what the page sent."""
    try:
        told = dict(sent)  # type: ignore[call-overload]
        for side in ("pre", "post"):
            if side in told:
                z, y, x = map(float, told[side])
                told[side] = z, y, x
        return Verdict(**told).checked()
    except (TypeError, ValueError) as error:
        raise InputError(f"{error!s:.200}") from None


def _described(tile: Tile) -> dict[str, Any]:
    """Return a tile as JSON has it, with its pictures in text."""

    def shown(png: bytes) -> str:
        return "data:image/png;base64," + base64.b64encode(png).decode()

    return {
        "stack": shown(tile.stack),
        "stack_sides": shown(tile.stack_sides),
        "cuts": shown(tile.cuts),
        "cuts_sides": shown(tile.cuts_sides),
        "sections": tile.sections,
        "size": tile.size,
        "corner": tile.corner,
        "step": tile.step,
        "angle": tile.angle,
        "cut_extent": tile.cut_extent,
    }
