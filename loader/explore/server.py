"""The page's server, which answers this machine alone.

Whoever knows the address reads the images, so it has a random token, and the server listens on
loopback. A page of another site cannot get at it by giving its own host name the address 127.0.0.1
(DNS rebinding), because the name that the browser asks for must be this machine's.
"""

import collections
import contextlib
import hmac
import os
import socket
import threading
from typing import Any, Callable, List

from .. import presets
from ..console.printable import printable
from ..errors import PipelineError
from ..language.check import Plan
from ..language.parse import place_of
from . import answers, limits
from .code import Code
from .explorer import Draw, Explorer
from .framework import (
    Flask,
    HTTPException,
    Response,
    WSGIRequestHandler,
    abort,
    jsonify,
    make_server,
    request,
    send_from_directory,
)
from .steps import described_steps

HOST = "127.0.0.1"
# Any port will do: `ssh -L` shows the page at another one.
_HOST_NAMES = ("127.0.0.1", "localhost", "[::1]")
_PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
_FILES = ("explore.css", "explore.js", "drawing.js")
_HEADERS = {
    "Cache-Control": "no-store",
    # The page loads nothing from elsewhere, and no other page may show it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # which would tell the token
    "X-Content-Type-Options": "nosniff",
}


def make_app(explorer: Explorer, code: Code, title: str, first: str, token: str) -> Flask:
    """The application.

    Args:
        explorer: makes the views.
        code: writes the Python.
        title: what the page says about the data.
        first: pipeline that is shown first, a preset's name or text.
        token: random text that every address must begin with.
    """
    app = Flask(__name__, static_folder=None)
    turns = Turns()

    @app.before_request
    def check() -> None:
        name = request.host.rpartition(":")[0] or request.host
        if name not in _HOST_NAMES and request.host not in _HOST_NAMES:
            abort(403, f"this server is not {printable(request.host)}")
        given = request.path.split("/")[1]
        if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
            abort(403, "the address lacks the token that `pretexture explore` printed")

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(_HEADERS)
        return response

    @app.errorhandler(HTTPException)
    def say(error: HTTPException) -> Any:
        # One that is raised by `abort` has its reason as description.
        return jsonify(error=error.description), error.code

    @app.get(f"/{token}/")
    def page() -> Any:
        return send_from_directory(_PAGE, "index.html")

    @app.get(f"/{token}/<name>.<ending>")
    def file(name: str, ending: str) -> Any:
        if f"{name}.{ending}" not in _FILES:
            abort(404)
        return send_from_directory(_PAGE, f"{name}.{ending}")

    @app.get(f"/{token}/about")
    def about() -> Any:
        return jsonify(
            title=title,
            records=len(explorer),
            faults=[str(fault) for fault in explorer.faults],
            pipeline=first,
            presets={name: _lines(str(preset)) for name, preset in presets.ALL.items()},
            steps=described_steps(),
        )

    @app.get(f"/{token}/source")
    def source() -> Any:
        number = _number("record", 0, len(explorer) - 1)
        return _bytes(answers.source(explorer.source(number)))

    @app.get(f"/{token}/views")
    def views() -> Any:
        text = request.args.get("pipeline", "")
        draw = Draw(
            training=request.args.get("mode", "training") != "evaluation",
            seed=_number("seed", 0, 2**64 - 1),
            epoch=_number("epoch", 0, 2**32 - 1),
        )
        first = _number("record", 0, max(0, len(explorer) - 1))
        count = _number("count", 1, limits.RECORDS)
        is_outdated = turns.begin(request.args.get("reader", ""), _number("turn", 0, 2**53))
        try:
            pipeline = presets.find(text.strip())
            plan = pipeline.compile(draw.training)
            shown, most = explorer.plan(pipeline, draw.training)
        except ValueError as error:
            place = place_of(error, text) if isinstance(error, PipelineError) else None
            # The records are shown without views.
            numbers = list(range(first, min(first + count, len(explorer))))
            answer = {"error": str(error), "place": place, "numbers": numbers}
            return _bytes(answers.packed(answer))
        found = list(explorer.views(shown, draw, first, min(count, most), is_outdated))
        records, pictures = answers.views(found)
        return _bytes(
            answers.packed(
                {
                    "error": "",
                    "views": answers.described(plan),
                    "notes": _notes(plan, count, most),
                    "python": code.lines(pipeline, draw.training, draw.seed),
                    "numbers": [record.number for record in found],
                    "records": records,
                },
                pictures,
            )
        )

    return app


def listen(port: int) -> socket.socket:
    """A socket that listens on loopback. Raises: OSError if the port is taken."""
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise OSError(
            f"cannot listen on port {port} of {HOST}: {error.strerror}; --port 0 takes a free one"
        ) from None
    return listening


def serve(app: Flask, listening: socket.socket) -> None:
    """Serves the page until Ctrl-C."""
    port = listening.getsockname()[1]
    server = make_server(
        HOST, port, app, threaded=True, request_handler=_Quiet, fd=listening.fileno()
    )
    # Ctrl-C interrupts the main thread. In the server, it would close a request in progress.
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    with contextlib.suppress(KeyboardInterrupt):
        serving.start()
        while serving.is_alive():
            serving.join(0.1)  # the signal may come to another thread, and end no longer wait
    # Requests that the end of the process cuts off are no errors.
    app.logger.disabled = True
    for says_it in ("log", "handle_error"):
        setattr(server, says_it, lambda *_: None)


class Turns:
    """Which request of a reader is its latest: the page has no use for the answers before it.

    A reader is one of the pipelines of one open page.
    """

    READERS = 100  # the latest ones are remembered

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: collections.OrderedDict[str, int] = collections.OrderedDict()

    def begin(self, reader: str, turn: int) -> Callable[[], bool]:
        """Notes a request; returns the function that says whether a later one has come."""
        with self._lock:
            self._latest[reader] = max(turn, self._latest.pop(reader, 0))
            while len(self._latest) > self.READERS:
                self._latest.popitem(last=False)
        return lambda: self._latest.get(reader, 0) > turn


class _Quiet(WSGIRequestHandler):
    """Prints no line for each request, and keeps connections open for the next one."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Prints nothing."""


def _number(name: str, low: int, high: int) -> int:
    """A whole number in the request, `low` if it is not there; another one is a bad request."""
    text = request.args.get(name, str(low))
    # Python refuses to read numbers of thousands of digits.
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and low <= int(text) <= high):
        abort(400, f"{name} must be a whole number from {low} to {high}, not {text[:40]!r}")
    return int(text)


def _bytes(answer: bytes) -> Response:
    return Response(answer, mimetype="application/octet-stream")


def _lines(sentence: str) -> str:
    """A sentence with a line for each branch."""
    return sentence.replace(" + ", "\n+ ")


def _notes(plan: Plan, count: int, most: int) -> List[str]:
    """What of a pipeline's views the page does not show."""
    notes = []
    of_branches = [limits.count_views(branch) for branch in plan.branches]
    shown = sum(map(min, of_branches, limits.most_views(plan)))
    if shown < sum(of_branches):
        notes.append(f"the first {shown} views are shown")
    if count > most:
        noun = "record is" if most == 1 else "records are"
        notes.append(f"{most} {noun} shown at once, because the views are large")
    return notes
