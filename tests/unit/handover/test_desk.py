"""The rules of a hand-over, without sockets and with a clock that a test moves."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest

from handover.desk import Answer, Desk, RateLimit
from handover.offer import APPLE_PROFILE, PKCS12, Handover, Offer

TOKEN = "c2VjcmV0LXRva2VuLW9mLWl0"
PASSWORD = "k7mf-2xqp-9wdt-hc4n-3rvy"
BUNDLE = Offer("phone.p12", PKCS12, b"the bundle's bytes", "the app")
PROFILE = Offer("phone.mobileconfig", APPLE_PROFILE, b"the profile's bytes", "Safari", attachment=False)
SECONDS = 600.0
PHONE, STRANGER = "192.168.1.44", "192.168.1.66"


class Clock:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def desk_for(clock: Clock, *offers: Offer) -> Desk:
    handover = Handover("phone", "ab" * 32, datetime(2036, 1, 1, tzinfo=UTC), offers, PASSWORD)
    return Desk(handover, TOKEN, SECONDS, clock=clock)


@pytest.fixture
def desk(clock: Clock) -> Desk:
    return desk_for(clock, BUNDLE)


def fetch(desk: Desk, name: str = "phone.p12", client: str = PHONE) -> Answer:
    """Fetch a file to the end."""
    answer = desk.answer("POST", f"/{TOKEN}/{name}", client)
    if answer.offer is not None:
        desk.delivered(answer.offer, client)
    return answer


def test_the_page_offers_the_file_by_a_form_that_posts(desk: Desk) -> None:
    page = desk.answer("GET", f"/{TOKEN}", PHONE)
    assert page.status == 200 and page.offer is None
    assert f'<form method="post" action="/{TOKEN}/phone.p12">' in page.body.decode()
    assert "10 minutes" in page.body.decode()
    assert PASSWORD not in page.body.decode()


def test_a_file_is_given_away_once(desk: Desk) -> None:
    first, second = fetch(desk), fetch(desk)
    assert (first.status, first.body, first.content_type) == (200, BUNDLE.content, PKCS12)
    assert ("Content-Disposition", 'attachment; filename="phone.p12"') in first.headers
    assert second.status == 410 and BUNDLE.content not in second.body
    assert desk.answer("GET", f"/{TOKEN}", PHONE).status == 410


def test_looking_does_not_take(desk: Desk) -> None:
    """Messengers look at links to show a preview, with GET or HEAD, and some follow links on the page."""
    for method in ("GET", "HEAD"):
        assert desk.answer(method, f"/{TOKEN}", STRANGER).status == 200
        looked = desk.answer(method, f"/{TOKEN}/phone.p12", STRANGER)
        assert looked.status == 405 and ("Allow", "POST") in looked.headers
    assert desk.answer("PUT", f"/{TOKEN}", STRANGER).status == 405
    assert fetch(desk).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//",
        "/phone.p12",
        f"/{TOKEN[:-1]}",
        f"/{TOKEN}x",
        f"/{TOKEN.lower()}",
        f"//{TOKEN}",
        f"/x/{TOKEN}",
        f"/?{TOKEN}",
        "/\udcff\udcfe",
        "/../" + TOKEN,
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_the_token_there_is_nothing(desk: Desk, method: str, path: str) -> None:
    assert desk.answer(method, path, STRANGER).status == 404
    assert desk.answer(method, f"{path}/phone.p12", STRANGER).status in (404, 405)
    assert fetch(desk).status == 200


@pytest.mark.parametrize("name", ["laptop.p12", "phone.key", "../phone.key", "phone.p12/", "ca.key"])
def test_nothing_but_the_offer_can_be_fetched(desk: Desk, name: str) -> None:
    assert desk.answer("POST", f"/{TOKEN}/{name}", PHONE).status == 404


def test_after_the_time_nothing_is_given_away(desk: Desk, clock: Clock) -> None:
    clock.now += SECONDS - 0.1
    assert desk.answer("GET", f"/{TOKEN}", PHONE).status == 200
    clock.now += 0.1
    assert desk.answer("GET", f"/{TOKEN}", PHONE).status == 410
    assert fetch(desk).status == 410


def test_it_is_finished_when_all_files_have_arrived(clock: Clock) -> None:
    desk = desk_for(clock, BUNDLE, PROFILE)
    first = desk.answer("POST", f"/{TOKEN}/phone.p12", PHONE)
    profile = fetch(desk, "phone.mobileconfig")
    assert profile.content_type == APPLE_PROFILE
    assert ("Content-Disposition", 'inline; filename="phone.mobileconfig"') in profile.headers
    assert not desk.finished.is_set()
    assert first.offer is not None
    desk.delivered(first.offer, PHONE)
    assert desk.finished.is_set()


def test_what_broke_off_is_not_given_away_again(desk: Desk) -> None:
    answer = desk.answer("POST", f"/{TOKEN}/phone.p12", PHONE)
    assert answer.offer is not None
    desk.broke_off(answer.offer, PHONE)
    assert desk.finished.is_set() and desk.delivered_names == []
    assert fetch(desk).status == 410


def test_who_asks_too_often_has_to_wait_and_others_have_not(desk: Desk, clock: Clock) -> None:
    for _ in range(Desk.REQUESTS):
        assert desk.answer("GET", "/guess", STRANGER).status == 404
    assert desk.answer("GET", "/guess", STRANGER).status == 429
    assert desk.answer("GET", f"/{TOKEN}", STRANGER).status == 200, "the token counts before any limit"
    assert desk.answer("GET", f"/{TOKEN}", PHONE).status == 200
    clock.now += Desk.WINDOW_SECONDS
    assert desk.answer("GET", "/guess", STRANGER).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/favicon.ico",
        "/favicon.ico?v=2",
        "/apple-touch-icon.png",
        "/apple-touch-icon-precomposed.png",
        "/apple-touch-icon-120x120-precomposed.png",
        "/.well-known/assetlinks.json",
        "/robots.txt",
    ],
)
def test_what_browsers_ask_for_by_themselves_is_refused_in_silence(
    desk: Desk, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.DEBUG)
    assert desk.answer("GET", path, PHONE).status == 404
    assert not caplog.records
    desk.answer("GET", f"/x{path}", PHONE)
    assert len(caplog.records) == 1, "beside it nothing is passed over in silence"


def test_a_flood_does_not_fill_the_terminal(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(Desk.REQUESTS + 1000):
        desk.answer("GET", "/guess", STRANGER)
    assert len(caplog.records) == Desk.REQUESTS + 1


def test_the_rate_limit_remembers_no_more_clients_than_it_says(clock: Clock) -> None:
    limit = RateLimit(1, 10, clock)
    assert limit.allows("first") and not limit.allows("first")
    for number in range(RateLimit.MOST_CLIENTS):
        limit.allows(str(number))
    assert limit.allows("first")


def test_every_refusal_is_logged_without_token_path_or_secret(
    desk: Desk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    desk.answer("GET", f"/{TOKEN[:-1]}", STRANGER)
    desk.answer("GET", f"/{TOKEN}/phone.p12", STRANGER)
    desk.answer("POST", f"/{TOKEN}/other", STRANGER)
    fetch(desk)
    fetch(desk)
    desk.malformed(400, STRANGER)
    clock.now += SECONDS
    desk.answer("GET", f"/{TOKEN}", STRANGER)
    assert [record.levelname for record in caplog.records].count("WARNING") == 6
    assert f"Refused: {PHONE} asked again for what was fetched already (410)." in caplog.text
    assert f"phone.p12 was fetched by {PHONE}." in caplog.text
    assert TOKEN[:-1] not in caplog.text
    assert PASSWORD not in caplog.text and "bytes" not in caplog.text
