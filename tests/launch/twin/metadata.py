"""The metadata server of one machine.

https://cloud.google.com/compute/docs/metadata/overview
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.launch.twin.command import PROJECT

PREFIX = "/computeMetadata/v1/"
TOKEN = {"access_token": "twin", "expires_in": 3600, "token_type": "Bearer"}


class Metadata:
    """Serves attributes on a port of its own.

    Args:
      attributes: by name; `instance/...` ones are not attributes but lie beside them.
    """

    def __init__(self, attributes: Mapping[str, str]):
        account = "instance/service-accounts/default"
        self.values = {
            "instance/id": "1",
            "instance/preempted": "FALSE",
            "instance/network-interfaces/0/ip": attributes.get("instance/ip", ""),
            "project/project-id": PROJECT,
            f"{account}/email": f"worker@{PROJECT}.iam.gserviceaccount.com",
            f"{account}/token": json.dumps(TOKEN),
        }
        for key, value in attributes.items():
            place = key if key.startswith("instance/") else f"instance/attributes/{key}"
            self.values[place] = value
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.values))
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(values: Mapping[str, str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            value = values.get(self.path.partition("?")[0].removeprefix(PREFIX))
            if self.path == "/":  # by which libraries find out that they are in a cloud
                value = ""
            elif self.headers.get("Metadata-Flavor") != "Google":
                self.send_error(403, "Missing Metadata-Flavor:Google header.")
                return
            if value is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Metadata-Flavor", "Google")
            self.end_headers()
            self.wfile.write(value.encode())

        def log_message(self, *_: object) -> None:
            pass

    return Handler
