"""A tiny web server behind the funnel, run on the lab's server: answers with the PROXY line it received."""

import ssl
import sys
from socket import create_server, socket


def answer(connection: socket, context: ssl.SSLContext) -> None:
    """Read the PROXY line (up to CRLF), then TLS, then one request."""
    line = b""
    while not line.endswith(b"\r\n") and (byte := connection.recv(1)):
        line += byte
    with context.wrap_socket(connection, server_side=True) as inside:
        inside.recv(65536)
        inside.sendall(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(line), line)
        )


def main(port: int, certificate: str, key: str) -> None:
    """Serve one connection after the other until killed."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with create_server(("127.0.0.1", port)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    answer(connection, context)
                except OSError as error:
                    print(error, flush=True)


main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
