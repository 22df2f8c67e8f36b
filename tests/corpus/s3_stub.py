"""A folder behind the S3 protocol, as much of it as a reader uses: list, head, get with a range."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

MODIFIED = "Wed, 21 Oct 2026 07:28:00 GMT"


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    broken: set[str]
    requests: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = urlsplit(self.path)
        _, bucket, key = (*unquote(parts.path).split("/", 2), "", "")[:3]
        query = parse_qs(parts.query)
        self.requests.append(f"{self.command} {bucket}/{key}")
        if bucket != "bucket":
            self._send(404, b"")
        elif not key and self.command == "GET":
            self._send(200, self._listing(query.get("prefix", [""])[0], query.get("delimiter", [""])[0]))
        elif not key:
            self._send(200, b"")
        elif not (self.folder / key).is_file():
            self._send(404, b"")
        elif key in self.broken and self.command == "GET":
            self._send(403, b"")
        else:
            self._object(self.folder / key, body)

    def _object(self, path: Path, body: bool) -> None:
        data = path.read_bytes()
        first, last = 0, len(data) - 1
        ranged = self.headers.get("Range")
        if ranged:
            begin, _, end = ranged.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or last), last)
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(last - first + 1))
        if ranged:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Last-Modified", MODIFIED)
        self.send_header("ETag", '"0"')
        self.end_headers()
        if body:
            self.wfile.write(data[first : last + 1])

    def _listing(self, prefix: str, delimiter: str) -> bytes:
        keys, folders = [], set()
        for path in sorted(self.folder.rglob("*")):
            key = str(path.relative_to(self.folder))
            if not path.is_file() or not key.startswith(prefix):
                continue
            rest = key.removeprefix(prefix)
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                keys.append((key, path.stat().st_size))
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-10-21T07:28:00.000Z</LastModified>"
            f"<Size>{size}</Size></Contents>"
            for key, size in keys
        )
        common = "".join(f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders))
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>'
            f"<Name>bucket</Name><KeyCount>{len(keys) + len(folders)}</KeyCount><IsTruncated>false</IsTruncated>"
            f"{contents}{common}</ListBucketResult>"
        ).encode()

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def s3_bucket(folder: Path, broken: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder as `bucket`; yields the end of a URI that leads to it, and the requests as they come. The
    objects named in `broken` are listed, but may not be read."""
    requests: list[str] = []
    handler = type("Handler", (_Handler,), {"folder": folder, "broken": set(broken), "requests": requests})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
