"""What makes the stand-ins Pulumi plugins: a gRPC server on loopback whose first output line is its port."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent import futures

import grpc  # type: ignore[import-untyped]

# The engine sends a whole program's state in one message; its own limit is 400 MiB.
_MESSAGE_LIMIT = 400 * 1024 * 1024
_OPTIONS = [
    ("grpc.max_receive_message_length", _MESSAGE_LIMIT),
    ("grpc.max_send_message_length", _MESSAGE_LIMIT),
]


def engine_channel(address: str) -> grpc.Channel:
    """A channel to the engine at `address` (host:port on loopback)."""
    return grpc.insecure_channel(address, options=_OPTIONS)


def serve(register: Callable[[grpc.Server], None], workers: int) -> None:
    """Serve until the engine interrupts us or goes away. `register` adds the servicer to the server.

    The engine may interrupt at any moment, even during start-up and shutdown: only serving needs a shutdown.
    """
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=workers), options=_OPTIONS)
    register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        server.wait_for_termination()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        server.stop(grace=None)
        # The engine is waiting. Nothing is left to write, and a regular shutdown of Python takes a while.
        sys.stdout.flush()
        os._exit(0)


def _exit_with_parent(parent: int) -> None:
    """A killed engine cannot tell its plugins to stop, so check whether it still is our parent."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
