"""The operator's own port: /metrics, and /healthz for its liveness probe. Served from a thread, so that it answers even
when the event loop hangs; that is when it must say so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A line for every probe would hide everything else."""


def application(registry: CollectorRegistry, sick: Callable[[], str]) -> WSGIApplication:
    """`sick` gives a sentence when the operator should be restarted, else nothing. It is called from another thread."""
    metrics: WSGIApplication = make_wsgi_app(registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return metrics(environ, start_response)
        why = sick() if path == "/healthz" else "there are /metrics and /healthz here"
        line = "200 OK" if not why else "503 Service Unavailable" if path == "/healthz" else "404 Not Found"
        start_response(line, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{why or 'ok'}\n".encode()]

    return app


def serve(host: str, port: int, registry: CollectorRegistry, sick: Callable[[], str]) -> tuple[int, Callable[[], None]]:
    """Start serving; returns the port and what ends it. Port 0 takes any. Raises OSError when the port is taken."""
    server = make_server(host, port, application(registry, sick), server_class=_Server, handler_class=_Silent)
    thread = threading.Thread(target=server.serve_forever, name="metrics and liveness", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return server.server_port, stop
