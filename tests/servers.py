"""Servers on loopback: S3, the web, and a proxy before either that fails as it is told to."""

import functools
import http.client
import http.server
import threading
import time
from typing import NamedTuple


class Fault(NamedTuple):
    """How some requests fail.

    Attributes:
        kind: "503"; "cut", a body that ends after 100 bytes; "stall", one that goes on after as
            many bytes only when the proxy's `go_on` is set; "gone", 404; or "mute", no answer to
            who asks before it sends.
        part: of the path of the requests.
        method: of the requests.
        times: how many fail.
    """

    kind: str
    part: str
    method: str = "GET"
    times: int = 10**9


class Proxy:
    """Passes requests on.

    Attributes:
        url: of the proxy.
        requests: (method, path) of all that came, since `restart` of those under its path.
        go_on: see `Fault`.
    """

    def __init__(self, upstream, port=0):
        self.requests = []
        self.go_on = threading.Event()
        self._faults = []
        self._under = ""
        self._lock = threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # whose clients may ask before they send a body

            def log_message(self, *arguments):
                pass

            def handle_expect_100(self):
                if proxy._kind(self.command, self.path, ("mute",)):
                    proxy.go_on.wait(60)
                return super().handle_expect_100()

            def handle_one(self):
                self.close_connection = True
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                kind = proxy._kind(self.command, self.path, ("503", "cut", "stall", "gone"))
                if kind in ("503", "gone"):
                    self.send_response(503 if kind == "503" else 404)
                    self.send_header("Content-Length", "0")
                    self.send_header("Connection", "close")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection(upstream.partition("//")[2], timeout=60)
                headers = {name: value for name, value in self.headers.items() if name != "Host"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                if kind is not None:
                    self.wfile.write(content[:100])
                    self.wfile.flush()
                    if kind == "cut":
                        return
                    proxy.go_on.wait(60)
                    content = content[100:]
                self.wfile.write(content)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.handle_error = lambda *about: None  # of who has gone away
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def restart(self, under):
        """Forgets requests and faults, and takes note only of requests under a path."""
        self.heal()
        with self._lock:
            self.requests = []
            self.go_on = threading.Event()
            self._under = under

    def fail(self, *fault, **more):
        """Makes requests fail from now on; see `Fault`."""
        with self._lock:
            self._faults.append(Fault(*fault, **more))

    def heal(self):
        """Ends all faults."""
        with self._lock:
            self._faults.clear()
        self.go_on.set()

    def count(self, method, part):
        """How many requests of that method came whose path has that part."""
        with self._lock:
            return sum(m == method and part in path for m, path in self.requests)

    def wait_for(self, method, part):
        """Waits for such a request."""
        deadline = time.monotonic() + 60
        while not self.count(method, part):
            assert time.monotonic() < deadline, f"no {method} of {part}"
            time.sleep(0.005)

    def close(self):
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def _kind(self, method, path, kinds):
        with self._lock:
            if not path.startswith(self._under):
                return None
            if "mute" not in kinds:
                self.requests.append((method, path))
            for place, fault in enumerate(self._faults):
                matches = fault.kind in kinds and fault.method == method and fault.part in path
                if matches and fault.times > 0:
                    self._faults[place] = fault._replace(times=fault.times - 1)
                    return fault.kind
        return None


def web_server(folder):
    """Serves a folder; returns the server, for its `server_port` and `shutdown`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


class S3:
    """An S3 server, and a proxy before it.

    Attributes:
        proxy: where `endpoint` leads.
        bucket: its URL; the bucket is empty.
    """

    def __init__(self, upstream, proxy, name):
        import fsspec

        self.proxy = proxy
        proxy.restart(f"/{name}")
        self.endpoint = self.proxy.url
        self.bucket = f"s3://{name}"
        client = {"endpoint_url": upstream}
        self.fs = fsspec.filesystem("s3", client_kwargs=client, use_listings_cache=False)
        self.fs.mkdir(name)

    def put(self, paths, prefix="data"):
        """Uploads files; returns their URLs."""
        urls = []
        for path in map(str, paths):
            urls.append(f"{self.bucket}/{prefix}/{path.rpartition('/')[2]}")
            self.fs.put_file(path, urls[-1])
        return urls

    def put_marker(self, prefix):
        """Makes a folder as a bucket's console does: an empty object whose name ends with /."""
        self.put_object(f"{prefix}/", b"")

    def put_object(self, key, body):
        """Uploads an object under any key, such as no file system would take."""
        import boto3

        client = boto3.client("s3", endpoint_url=self.endpoint)
        client.put_object(Bucket=self.bucket[5:], Key=key, Body=body)
