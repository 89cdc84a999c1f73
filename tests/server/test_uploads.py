"""What guests upload through a link: budgets, room on the disk, the form, what the answer tells. Real Caddy.

The rules are in server/caddy/uploads.go and beside it, with tables of their own; here is what strangers try.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.server.conftest import EdgeMaker
from tests.server.edge import Edge
from tests.server.forms import FIELDS, UPLOAD, Form, form, sized_form
from tests.server.http2 import Http2Connection
from tests.server.visitor import DOMAIN, Answer, ConnectionDroppedError
from tests.server.waiting import wait_until

pytestmark = pytest.mark.server

LINK = "/api/shared-links/me"
Flood = Callable[[Edge, str], Counter[int]]
HALF = 500_000
"""Bytes: half a megabyte."""
BUDGETS = {
    "UPLOAD_SIZE": "1MB",
    "UPLOADS_OF_LINK": "2MB",
    "UPLOAD_FILES_OF_LINK": "50",
    "UPLOADS_OF_ALL": "3MB",
    "UPLOAD_FILES_OF_ALL": "60",
    "UPLOADS_LEAVE": "20GB",
}


@pytest.fixture
def edge(make_edge: EdgeMaker) -> Edge:
    """Return an edge that lets 2 MB of one link through in an hour, and 3 MB in all."""
    return make_edge(uploads="on", settings=BUDGETS)


def upload(edge: Edge, sent: Form, link: str = "key=abc", address: str | None = None) -> Answer:
    """Upload a form through a link."""
    return edge.ask(f"/api/assets?{link}", "POST", address=address, headers=sent.headers, body=sent.body)


def chunked(edge: Edge, sent: Form, link: str, address: str, *, drip: float = 0, size: int = 50_000) -> int:
    """Upload without saying how much it is; return the status, 0 when the connection ended."""
    head = f"POST /api/assets?{link} HTTP/1.1\r\nHost: {DOMAIN}\r\nTransfer-Encoding: chunked\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in sent.headers) + "\r\n"
    with contextlib.suppress(OSError, http.client.HTTPException), edge.connect(address) as connection:
        connection.tls.sendall(head.encode())
        with contextlib.suppress(OSError):
            for start in range(0, len(sent.body), size):
                chunk = sent.body[start : start + size]
                connection.tls.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                time.sleep(drip)
            connection.tls.sendall(b"0\r\n\r\n")
        answer = http.client.HTTPResponse(connection.tls, method="POST")
        answer.begin()
        return answer.status
    return 0


def uploaded(edge: Edge, link: str = "") -> int:
    """Return the bytes of bodies that Immich got whole."""
    return sum(
        seen.body_size for seen in edge.backend.received if seen.method == "POST" and link in seen.target
    )


def told(edge: Edge) -> list[int]:
    """Return what the edge tells root of the last hour: bytes and files."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(str(edge.folder / "run/admin.sock"))
        admin.sendall(b"GET /uploads HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = http.client.HTTPResponse(admin)
        answer.begin()
        return [int(word) for word in answer.read().split()]


def assert_said(answer: Answer, status: int, sentence: str) -> None:
    """Assert that the answer is one that Immich's page can read."""
    assert answer.status == status
    said = json.loads(answer.body)
    assert said["statusCode"] == status
    assert sentence in said["message"]


# --- budgets


def flood_whole(edge: Edge, link: str) -> Counter[int]:
    """Send ten times the budget in forms that say how big they are, on eight connections at once."""
    statuses: Counter[int] = Counter()

    def send(address: str) -> None:
        for _ in range(5):
            with contextlib.suppress(ConnectionDroppedError):
                statuses[upload(edge, sized_form(HALF), link, address).status] += 1

    at_once(edge, send)
    return statuses


def flood_chunked(edge: Edge, link: str) -> Counter[int]:
    """Send it without saying how much it is."""
    statuses: Counter[int] = Counter()

    def send(address: str) -> None:
        for _ in range(5):
            statuses[chunked(edge, sized_form(HALF), link, address)] += 1

    at_once(edge, send)
    return statuses


def flood_http2(edge: Edge, link: str) -> Counter[int]:
    """Send it in many streams of a few connections, each within the first window of its own."""
    statuses: Counter[int] = Counter()

    def send(address: str) -> None:
        sent = sized_form(60_000)
        with (
            edge.connect(address, protocols=("h2",)) as connection,
            Http2Connection(connection) as http2,
        ):
            for _ in range(42):
                with contextlib.suppress(ConnectionDroppedError):
                    target = f"/api/assets?{link}"
                    named = [(name.lower(), value) for name, value in sent.headers]
                    statuses[http2.ask(target, "POST", headers=named, body=sent.body).status] += 1

    at_once(edge, send)
    return statuses


def at_once(edge: Edge, work: Callable[[str], None]) -> None:
    """Do this from eight addresses at once."""
    threads = [threading.Thread(target=work, args=(edge.new_address(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("flood", [flood_whole, flood_chunked, flood_http2])
def test_a_flood_of_ten_times_the_budget_stops_at_it(edge: Edge, flood: Flood) -> None:
    """Meanwhile a device uploads, and another link still takes what all links together may take."""
    phone = edge.device("phone")
    with edge.connect(edge.new_address(), phone) as device:
        device.tls.sendall(
            f"POST /api/assets HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Length: {8 * HALF}\r\n\r\n".encode()
            + b"d" * HALF
        )
        statuses = flood(edge, "key=abc")
        by_links = edge.backend.arrived - HALF
        assert flood is flood_chunked or statuses[201] >= 3
        assert statuses[429] >= 10
        assert 3 * HALF <= by_links <= 4 * HALF
        assert upload(edge, sized_form(HALF), "key=other").status == 201
        assert device.send(b"d" * (7 * HALF)).status == 200
    assert upload(edge, sized_form(HALF), "key=abc").status == 429
    assert told(edge)[0] <= 6 * HALF
    verdicts = {entry.get("verdict") for entry in edge.log_entries()}
    assert verdicts <= {"anon", "device", None}, "a guest is no offender"


def test_at_the_budget_a_guest_reads_why_and_is_no_offender(edge: Edge) -> None:
    guest = edge.new_address()
    for _ in range(4):
        assert upload(edge, sized_form(HALF), address=guest).status == 201
    answer = upload(edge, form(), address=guest)
    assert_said(answer, 429, "Enough was uploaded through this link for now")
    assert 3300 <= int(answer.headers["retry-after"]) <= 3901
    assert upload(edge, sized_form(2 * HALF), "key=b").status == 201
    assert_said(upload(edge, form(), "key=c"), 429, "through links for now")
    assert {entry["verdict"] for entry in edge.entries_of(guest, 5)} == {"anon"}
    assert told(edge) == [6 * HALF, 5]
    edge.reload()
    assert upload(edge, form()).status == 429, "a reload gives no new budget"
    assert edge.ask("/share/abc", address=guest).status == 200


def test_a_link_has_one_budget_by_whichever_name(edge: Edge) -> None:
    edge.backend.bodies["GET", LINK] = json.dumps({"id": "one", "allowUpload": True}).encode()
    for link in ("key=abc", "slug=party", "key=%61bc", "key=abc&x=1"):
        assert upload(edge, sized_form(HALF), link).status == 201
    assert upload(edge, sized_form(HALF), "slug=party").status == 429


def test_files_have_a_budget_too(make_edge: EdgeMaker) -> None:
    edge = make_edge(uploads="on", settings={**BUDGETS, "UPLOAD_FILES_OF_LINK": "3"})
    assert [upload(edge, form()).status for _ in range(4)] == [201, 201, 201, 429]
    assert upload(edge, form(), "key=b").status == 201


def test_a_made_up_link_costs_nobody_anything(edge: Edge) -> None:
    """It is a guess as ever, and Immich gets nothing of its body."""
    guesser = edge.new_address()
    edge.backend.decide = lambda method, target: (
        (401, b'{"message":"Invalid share key"}') if "made" in target else None
    )
    answers = [upload(edge, sized_form(9_000), f"key=made{number}", guesser) for number in range(5)]
    assert [answer.status for answer in answers] == [401] * 5
    assert uploaded(edge) == edge.backend.arrived == 0
    assert [entry["verdict"] for entry in edge.entries_of(guesser, 5)] == ["guess"] * 5
    assert told(edge) == [0, 0]
    assert upload(edge, sized_form(2 * HALF)).status == 201


def test_a_link_that_takes_no_uploads_is_refused_before_its_body(edge: Edge) -> None:
    edge.backend.bodies["GET", LINK] = b'{"id":"one","allowUpload":false}'
    assert_said(upload(edge, form()), 401, "takes no uploads")
    edge.backend.answers["GET", LINK] = (401, {})
    edge.backend.bodies["GET", LINK] = b'{"message":"Password required"}'
    assert_said(upload(edge, form()), 401, "Password required")
    assert {seen.method for seen in edge.backend.received} == {"GET"}


@pytest.mark.parametrize("says", [b"no JSON", b"[]", b'{"allowUpload":true}', b'{"id":"x","allowUp', b""])
def test_where_immich_does_not_say_what_a_link_may_nothing_is_uploaded(edge: Edge, says: bytes) -> None:
    edge.backend.bodies["GET", LINK] = says
    assert_said(upload(edge, form()), 503, "Immich does not answer")
    assert {seen.method for seen in edge.backend.received} == {"GET"}


def test_the_password_of_a_link_goes_with_the_question(edge: Edge) -> None:
    sent = form()
    cookie = [("Cookie", "immich_access_token=stolen; immich_shared_link_token=proof")]
    assert edge.ask(UPLOAD, "POST", headers=sent.headers + cookie, body=sent.body).status == 201
    for seen in edge.backend.received:
        assert seen.headers["cookie"] == ["immich_shared_link_token=proof"]


# --- room on the disk


def test_below_the_floor_nothing_is_uploaded_and_a_device_goes_on(edge: Edge) -> None:
    phone = edge.device("phone")
    edge.leave_free(20.0008)
    assert_said(upload(edge, sized_form(2 * HALF)), 507, "nearly full")
    assert upload(edge, sized_form(100_000)).status == 201
    assert chunked(edge, sized_form(2 * HALF), "key=b", edge.new_address()) == 507
    assert edge.backend.arrived < 850_000
    assert edge.ask("/api/assets", "POST", identity=phone, body=b"x" * HALF).status == 200


@pytest.mark.parametrize("unknown", ["missing", "old", "no number"])
def test_where_nobody_knows_how_much_is_free_nothing_is_uploaded(edge: Edge, unknown: str) -> None:
    if unknown == "old":
        os.utime(edge.room, (time.time() - 600, time.time() - 600))
    elif unknown == "missing":
        edge.room.unlink()
    else:
        edge.room.write_text("much")
    assert_said(upload(edge, form()), 507, "It is not known how much space")
    assert uploaded(edge) == 0


# --- who sends slowly


@pytest.fixture
def impatient(make_edge: EdgeMaker) -> Iterator[Edge]:
    """Return an edge that waits for a body for a second, and then wants its 2 kB/s."""
    yield make_edge(uploads="on", settings={**BUDGETS, "BODY_PATIENCE": "1s"})


def test_who_sends_drop_by_drop_is_dropped_and_holds_no_budget(impatient: Edge) -> None:
    with impatient.connect(impatient.new_address()) as slow:
        sent = sized_form(2 * HALF)
        head = f"POST {UPLOAD} HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Length: {len(sent.body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in sent.headers) + "\r\n"
        slow.tls.sendall(head.encode() + sent.body[:1000])
        wait_until(lambda: impatient.backend.arrived > 0, "the upload has begun")
        assert upload(impatient, sized_form(2 * HALF)).status == 201
        assert upload(impatient, form()).status == 429, "a megabyte is kept free for it"
        with contextlib.suppress(OSError):
            for _ in range(10):
                slow.tls.sendall(b"x" * 100)
                time.sleep(0.2)
        wait_until(lambda: upload(impatient, form()).status == 201, "its budget is free again")


def test_an_upload_that_breaks_off_is_no_fault_of_the_edges(edge: Edge) -> None:
    """Neither is it told as one in the journal, nor does it hold what it had announced."""
    head = f"POST {UPLOAD} HTTP/1.1\r\nHost: {DOMAIN}\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in form().headers
    )
    with edge.connect(edge.new_address()) as connection:
        connection.tls.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\nno number\r\n".encode())
        answer = http.client.HTTPResponse(connection.tls, method="POST")
        answer.begin()
        assert answer.status == 400
    addresses = [edge.new_address() for _ in range(20)]
    for address in addresses:
        with edge.connect(address) as connection:
            connection.tls.sendall(f"{head}Content-Length: {HALF}\r\n\r\n------WebKit".encode())
    for address in addresses:
        edge.entries_of(address)
    assert [upload(edge, sized_form(HALF)).status for _ in range(3)] == [201] * 3
    assert "error handling handler error" not in edge.journal.read_text()


def test_a_mobile_uplink_gets_through(impatient: Edge) -> None:
    """A tenth of a megabyte a second, for longer than a body's first patience."""
    sent = sized_form(200_000)
    assert chunked(impatient, sent, "key=abc", impatient.new_address(), drip=0.2, size=20_000) == 201


# --- the form


FIREFOX = "---------------------------9051914041544843365972754266"
"""What Firefox puts between the parts."""


@pytest.mark.parametrize(
    "boundary", ["----WebKitFormBoundary7MA4YWxkTrZu0gW", FIREFOX, "----geckoformboundary1a"]
)
@pytest.mark.parametrize("name", ["IMG_1.HEIC", "Größe %22x%22.jpg", "a;b,c'.mp4"])
def test_what_browsers_send_reaches_immich_byte_for_byte(
    make_edge: EdgeMaker, boundary: str, name: str
) -> None:
    edge = make_edge(uploads="on")
    sent = form(b"\r\n--" + boundary[:-1].encode() + b"\r\n" * 9, name, boundary=boundary)
    assert upload(edge, sent).status == 201
    assert chunked(edge, sent, "key=abc", edge.new_address(), size=7) == 201
    assert [seen.body_size for seen in edge.backend.received if seen.method == "POST"] == [len(sent.body)] * 2


def _tricks() -> dict[str, tuple[Form, list[tuple[str, str]]]]:
    good = form()
    return {
        "a program": (form(name="a.exe"), good.headers),
        "a page": (form(name="a.jpg.html"), good.headers),
        "no name": (Form(good.body.replace(b'; filename="IMG_1.jpg"', b"")), good.headers),
        "another name": (
            Form(good.body.replace(b'"IMG_1.jpg"', b"\"a.jpg\"; filename*=UTF-8''a.exe")),
            good.headers,
        ),
        "a quoted pair": (form(name='a.exe\\".jpg'), good.headers),
        "a folded line": (Form(good.body.replace(b"; filename", b";\r\n filename")), good.headers),
        "two files": (
            Form(good.body.replace(f"{good.boundary}--".encode(), good.boundary.encode()) + good.body),
            good.headers,
        ),
        "a field of another kind": (form(fields={**FIELDS, "visibility": "hidden"}), good.headers),
        "a name in a field": (form(fields={**FIELDS, "filename": "a.exe"}), good.headers),
        "a preamble": (Form(b"x\r\n" + good.body), good.headers),
        "a quoted boundary": (good, [("Content-Type", f'multipart/form-data; boundary="{good.boundary}"')]),
        "two boundaries": (
            good,
            [("Content-Type", f"multipart/form-data; boundary=x; boundary={good.boundary}")],
        ),
        "two types": (good, [("Content-Type", "multipart/form-data; boundary=x"), *good.headers]),
        "packed": (Form(b"\x1f\x8b" + good.body), [*good.headers, ("Content-Encoding", "gzip")]),
        "no form": (Form(b"{}"), [("Content-Type", "application/json")]),
        "nothing": (Form(b""), good.headers),
    }


TRICKS = _tricks()


@pytest.mark.parametrize("trick", TRICKS)
def test_a_form_that_could_be_read_in_two_ways_is_not_uploaded(make_edge: EdgeMaker, trick: str) -> None:
    edge = make_edge(uploads="on")
    sent, headers = TRICKS[trick]
    guest = edge.new_address()
    answer = edge.ask(UPLOAD, "POST", address=guest, headers=headers, body=sent.body)
    assert_said(answer, 415, "refused")
    assert [entry["verdict"] for entry in edge.entries_of(guest)] == ["anon"]
    assert not any(
        seen.method == "POST" and seen.body_size >= len(sent.body) for seen in edge.backend.received
    )


# --- what the answer tells


def test_nobody_learns_whether_the_owner_has_the_file(edge: Edge) -> None:
    """Neither by a checksum, which never reaches Immich, nor by what it says of the upload."""
    sent = form()
    checksum = [("x-immich-checksum", "2jmj7l5rSw0yVb/vlWAYkK/YBwk=")]
    answers = []
    for status, word in ((201, "created"), (200, "duplicate")):
        edge.backend.answers["POST", "/api/assets"] = (status, {"ETag": f'W/"{word}"', "X-Status": "1"})
        edge.backend.bodies["POST", "/api/assets"] = json.dumps({"id": "0a1b", "status": word}).encode()
        answers.append(edge.ask(UPLOAD, "POST", headers=sent.headers + checksum, body=sent.body))
    assert answers[0].status == 201
    assert json.loads(answers[0].body) == {"id": "0a1b", "status": "created"}
    heads = [{name: value for name, value in each.headers.items() if name != "date"} for each in answers]
    assert (heads[0], answers[0].body, answers[0].status) == (heads[1], answers[1].body, answers[1].status)
    for seen in edge.backend.received:
        assert "x-immich-checksum" not in seen.headers


def test_what_immich_refuses_it_says_itself(edge: Edge) -> None:
    edge.backend.answers["POST", "/api/assets"] = (400, {})
    edge.backend.bodies["POST", "/api/assets"] = b'{"message":"Quota has been exceeded!"}'
    answer = upload(edge, form())
    assert (answer.status, answer.body) == (400, b'{"message":"Quota has been exceeded!"}')
