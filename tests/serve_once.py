"""Serves a model folder, asks it for one picture, prints the number of segments, and ends: for tests of whole ways.

python tests/serve_once.py MODEL PICTURE VOCABULARY
"""

from __future__ import annotations

import socket
import sys

from ray import serve as ray_serve

from frozenseg.client import Client
from pipelines import ray_session
from serve.app import build


def main(model: str, picture: str, vocabulary: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ray_session.RayOptions(num_cpus=4, num_gpus=0, object_store_mb=300, dashboard=False)
    with ray_session.session(options=options):
        ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
        try:
            ray_serve.run(build({"model": model, "device": "cpu"}), name="frozenseg")
            with Client(f"http://127.0.0.1:{port}") as client:
                print(f"{len(client.segment(picture, vocabulary).segments)} segments")
        finally:
            ray_serve.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
