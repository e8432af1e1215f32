"""The web application: read-only, for browsers, with a token where others than this machine may ask."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dopamine_rl.addresses import is_loopback
from dopamine_rl.errors import BadInput
from experiments.viewer.episodes import jpeg, reference
from experiments.viewer.pages import Pages, Shown, static
from experiments.viewer.runs import FILES
from reward_service.guards import TokenCheck
from reward_service.statuses import Unauthorized

logger = logging.getLogger(__name__)

COOKIE = "dopamine_show"
POLICY = (
    "default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
FOR_EVER = {"cache-control": "private, max-age=31536000, immutable"}
"""For pictures: their addresses change with the record."""
MEDIA = {"viewer.css": "text/css", "viewer.js": "text/javascript"}


def make_app(runs: Sequence[Shown], host: str, token: str | None = None, names: Sequence[str] = ()) -> ASGIApp:
    """The web application.

    Args:
        runs: from `shown_runs`.
        host: address that it listens on; off loopback give a token.
        token: required in every request, as a cookie that `?token=` sets or as `Authorization: Bearer`; None: of none.
        names: further names by which browsers call this machine.
    """
    answers = Answers(runs)
    app = Starlette(
        routes=[
            Route("/", answers.home),
            Route("/compare", answers.compare),
            Route("/static/{name}", answers.static),
            Route("/runs/{run:int}", answers.run),
            Route("/runs/{run:int}/files/{name}", answers.file),
            Route("/runs/{run:int}/episodes", answers.episodes),
            Route("/runs/{run:int}/episodes/{episode}", answers.episode),
            Route("/runs/{run:int}/episodes/{episode}/pictures/{picture}", answers.picture),
        ],
        exception_handlers={HTTPException: answers.refuse, BadInput: answers.unreadable},  # type: ignore[dict-item]
    )
    return Guard(app, answers.pages.sign_in, host, token, names)


class Guard:
    """Lets nothing but reading through, from browsers that mean this machine and know the token.

    A page of another site whose name is made to lead here sends that name as its Host; so only names of this machine
    are answered.

    Args:
        app: what it guards.
        sign_in: the page for browsers without the token.
        host, token, names: as for `make_app`.
    """

    def __init__(
        self, app: ASGIApp, sign_in: Callable[[], str], host: str, token: str | None, names: Sequence[str]
    ) -> None:
        self._app, self._sign_in, self._token = app, sign_in, token
        self._check, self._session = TokenCheck(token), secrets.token_urlsafe(32)
        self._check_session = TokenCheck(self._session)
        self._names = {"localhost", host.strip("[]").lower(), *(name.lower() for name in names)}
        if not is_loopback(host):
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._public = not is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in more if pair[0] not in present)]
            await send(message)

        answer = self._refusal(Request(scope)) or self._app
        await answer(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        """Why a request is not answered; None if it is."""
        if request.method not in ("GET", "HEAD"):
            return Response("read-only\n", 405, {"allow": "GET, HEAD"}, "text/plain")
        if not self._is_ours(request.headers.get("host", "")):
            fix = "this name is not known here: open the address that `dopamine show` printed, or give it --name\n"
            return Response(fix, 421, media_type="text/plain")
        if self._token is None or self._knows(request):
            return None
        given = dict(parse_qsl(request.url.query)).get("token")
        if given is not None and self._passes(self._check, given):
            return self._signed_in(request)
        return HTMLResponse(self._sign_in(), 401, {"cache-control": "no-store"})

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this machine. Off loopback any address does, as no site can take one's place."""
        name = host.lower().rpartition("]")[0].lstrip("[") if host.startswith("[") else host.lower().partition(":")[0]
        return name in self._names or is_loopback(name) or (self._public and _is_address(name))

    def _knows(self, request: Request) -> bool:
        try:
            cookie = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        if cookie is not None and self._passes(self._check_session, cookie.value):
            return True
        authorization = request.headers.get("authorization", "")
        return self._passes(self._check, authorization.removeprefix("Bearer ")) if authorization else False

    def _signed_in(self, request: Request) -> Response:
        """Remember the browser, and take the token out of its address bar."""
        rest = [(name, value) for name, value in parse_qsl(request.url.query) if name != "token"]
        answer = RedirectResponse(f"{request.url.path}{'?' if rest else ''}{urlencode(rest)}", 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, self._session, httponly=True, samesite="lax", secure=secure)
        return answer

    @staticmethod
    def _passes(check: TokenCheck, token: str) -> bool:
        try:
            check(b"Bearer " + token.encode())
        except Unauthorized:
            return False
        return True


class Answers:
    """The endpoints.

    Args:
        runs: from `shown_runs`.
    """

    def __init__(self, runs: Sequence[Shown]) -> None:
        self._runs, self.pages = runs, Pages(runs)

    def home(self, request: Request) -> Response:
        """The only run, or the first two side by side."""
        return RedirectResponse("/compare" if len(self._runs) > 1 else "/runs/0", 303)

    def run(self, request: Request) -> Response:
        """A run's first page."""
        return _page(self.pages.run(self._run(request)))

    def episodes(self, request: Request) -> Response:
        """The list of a run's episodes."""
        sort, only = _arrangement(request.query_params)
        page = request.query_params.get("page", "1")
        return _page(self.pages.episodes(self._run(request), sort, only, int(page) if page.isdecimal() else 1))

    def episode(self, request: Request) -> Response:
        """One episode."""
        try:
            return _page(
                self.pages.episode(
                    self._run(request), request.path_params["episode"], *_arrangement(request.query_params)
                )
            )
        except KeyError:
            raise _gone() from None

    def picture(self, request: Request) -> Response:
        """The pictures of an episode's frame, or a reference, as a JPEG."""
        which = request.path_params["picture"]
        try:
            episode = self._run(request).store.episode(request.path_params["episode"])
            views = reference(episode, which) if which in ("start", "end", "goal") else episode.views(int(which))
        except (KeyError, IndexError, ValueError):
            raise _gone() from None
        return Response(jpeg(views), media_type="image/jpeg", headers=FOR_EVER)

    def compare(self, request: Request) -> Response:
        """Two runs side by side."""
        chosen = request.query_params
        first = self._chosen(chosen.get("a"), 0)
        second = self._chosen(chosen.get("b"), min(1, len(self._runs) - 1))
        return _page(self.pages.compare(first, second, [chosen.get("first"), chosen.get("second")]))

    def file(self, request: Request) -> Response:
        """A video or picture that the run has written."""
        name, folder = request.path_params["name"], self._run(request).reader.folder
        path = folder / name
        if name not in FILES or not path.is_file() or not path.resolve().is_relative_to(folder):
            raise _gone()
        return FileResponse(path, headers={"cache-control": "no-cache"})

    def static(self, request: Request) -> Response:
        """A style sheet or script."""
        name = request.path_params["name"]
        if name not in MEDIA:
            raise _gone()
        return Response(static(name), media_type=MEDIA[name], headers={"cache-control": "no-cache"})

    async def refuse(self, request: Request, error: HTTPException) -> Response:
        """A page for an address that leads nowhere."""
        return HTMLResponse(self.pages.failure(error.status_code, str(error.detail)), error.status_code)

    async def unreadable(self, request: Request, error: BadInput) -> Response:
        """A page for a record that cannot be read."""
        logger.warning("%s", error)
        return HTMLResponse(self.pages.failure(410, "This record cannot be read: it is damaged, or was removed."), 410)

    def _run(self, request: Request) -> Shown:
        index: int = request.path_params["run"]
        if index >= len(self._runs):
            raise _gone()
        return self._runs[index]

    def _chosen(self, index: str | None, default: int) -> Shown:
        known = index is not None and index.isdecimal() and int(index) < len(self._runs)
        return self._runs[int(index) if known and index else default]


def _arrangement(query: Mapping[str, str]) -> tuple[str, str]:
    return query.get("sort", ""), query.get("only", "")


def _page(text: str) -> Response:
    return HTMLResponse(text, headers={"cache-control": "no-store"})


def _gone() -> HTTPException:
    return HTTPException(404, "There is nothing here: the episode may have been removed since (labels.records_mb).")


def _is_address(name: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name)
        except OSError:
            continue
        return True
    return False
