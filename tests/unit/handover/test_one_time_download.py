"""The rules of a hand-over, without sockets and with a clock that a test moves."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest

from handover.files import APPLE_PROFILE, PKCS12, Handover, OneTimeFile
from handover.guides import GUIDES
from handover.one_time_download import Answer, OneTimeDownload, RateLimit
from handover.sheet import Guidance
from pki import Platform

TOKEN = "c2VjcmV0LXRva2VuLW9mLWl0"
PASSWORD = "k7mf-2xqp-9wdt-hc4n-3rvy"
BUNDLE = OneTimeFile("phone.p12", PKCS12, b"the bundle's bytes", "the app")
PROFILE = OneTimeFile("phone.mobileconfig", APPLE_PROFILE, b"the profile's bytes", "Safari", attachment=False)
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


def download_of(clock: Clock, *files: OneTimeFile, guidance: Guidance | None = None) -> OneTimeDownload:
    handover = Handover("phone", "ab" * 32, datetime(2036, 1, 1, tzinfo=UTC), files, PASSWORD, guidance)
    return OneTimeDownload(handover, TOKEN, SECONDS, clock=clock)


@pytest.fixture
def download(clock: Clock) -> OneTimeDownload:
    return download_of(clock, BUNDLE)


def fetch(download: OneTimeDownload, name: str = "phone.p12", client: str = PHONE) -> Answer:
    """Fetch a file to the end."""
    answer = download.answer("POST", f"/{TOKEN}/{name}", client)
    if answer.file is not None:
        download.delivered(answer.file, client)
    return answer


def test_the_page_offers_the_file_by_a_form_that_posts(download: OneTimeDownload) -> None:
    page = download.answer("GET", f"/{TOKEN}", PHONE)
    assert page.status == 200 and page.file is None
    assert f'<form method="post" action="/{TOKEN}/phone.p12">' in page.body.decode()
    assert "10 minutes" in page.body.decode()
    assert PASSWORD not in page.body.decode()


@pytest.mark.parametrize("platform", list(Platform))
def test_the_page_says_what_to_do_next_on_this_platform(clock: Clock, platform: Platform) -> None:
    url = "https://immich.example.ts.net"
    download = download_of(clock, BUNDLE, guidance=Guidance(platform, url))
    page = download.answer("GET", f"/{TOKEN}", PHONE).body.decode()
    assert f"Then, on this {GUIDES[platform].noun}" in page
    assert url in page.replace("<wbr>", "")
    assert page.count("<h3>") == len(GUIDES[platform].steps)
    assert "install sheet" not in page
    assert "<h3>" not in download_of(clock, BUNDLE).answer("GET", f"/{TOKEN}", PHONE).body.decode()


def test_what_was_fetched_is_said_and_the_other_file_is_still_there(clock: Clock) -> None:
    download = download_of(clock, BUNDLE, PROFILE)
    fetch(download)
    page = download.answer("GET", f"/{TOKEN}", PHONE).body.decode()
    assert "phone.p12</b> was fetched. The terminal shows the password." in page
    assert f'action="/{TOKEN}/phone.mobileconfig"' in page and f'action="/{TOKEN}/phone.p12"' not in page


def test_who_comes_back_after_success_reads_that_it_succeeded(clock: Clock) -> None:
    download = download_of(clock, BUNDLE, guidance=Guidance(Platform.IOS, "https://immich.example.ts.net"))
    fetch(download)
    for method, path in (("GET", f"/{TOKEN}"), ("POST", f"/{TOKEN}/phone.p12")):
        answer = download.answer(method, path, PHONE)
        page = answer.body.decode()
        assert answer.status == 410 and "Gone" not in page
        assert "phone.p12</b> was fetched. The terminal shows the password." in page
        assert page.count("<h3>") == len(GUIDES[Platform.IOS].steps)


def test_a_file_is_given_away_once(download: OneTimeDownload) -> None:
    first, second = fetch(download), fetch(download)
    assert (first.status, first.body, first.content_type) == (200, BUNDLE.content, PKCS12)
    assert ("Content-Disposition", 'attachment; filename="phone.p12"') in first.headers
    assert second.status == 410 and BUNDLE.content not in second.body
    assert download.answer("GET", f"/{TOKEN}", PHONE).status == 410


def test_looking_does_not_take(download: OneTimeDownload) -> None:
    """Messengers look at links to show a preview, with GET or HEAD, and some follow links on the page."""
    for method in ("GET", "HEAD"):
        assert download.answer(method, f"/{TOKEN}", STRANGER).status == 200
        looked = download.answer(method, f"/{TOKEN}/phone.p12", STRANGER)
        assert looked.status == 405 and ("Allow", "POST") in looked.headers
    assert download.answer("PUT", f"/{TOKEN}", STRANGER).status == 405
    assert fetch(download).status == 200


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
def test_without_the_token_there_is_nothing(download: OneTimeDownload, method: str, path: str) -> None:
    assert download.answer(method, path, STRANGER).status == 404
    assert download.answer(method, f"{path}/phone.p12", STRANGER).status in (404, 405)
    assert fetch(download).status == 200


@pytest.mark.parametrize("name", ["laptop.p12", "phone.key", "../phone.key", "phone.p12/", "ca.key"])
def test_nothing_but_its_files_can_be_fetched(download: OneTimeDownload, name: str) -> None:
    assert download.answer("POST", f"/{TOKEN}/{name}", PHONE).status == 404


def test_after_the_time_nothing_is_given_away(download: OneTimeDownload, clock: Clock) -> None:
    clock.now += SECONDS - 0.1
    assert download.answer("GET", f"/{TOKEN}", PHONE).status == 200
    clock.now += 0.1
    assert download.answer("GET", f"/{TOKEN}", PHONE).status == 410
    assert fetch(download).status == 410


def test_it_is_finished_when_all_files_have_arrived(clock: Clock) -> None:
    download = download_of(clock, BUNDLE, PROFILE)
    first = download.answer("POST", f"/{TOKEN}/phone.p12", PHONE)
    profile = fetch(download, "phone.mobileconfig")
    assert profile.content_type == APPLE_PROFILE
    assert ("Content-Disposition", 'inline; filename="phone.mobileconfig"') in profile.headers
    assert not download.finished.is_set()
    assert first.file is not None
    download.delivered(first.file, PHONE)
    assert download.finished.is_set()


def test_what_broke_off_is_not_given_away_again(download: OneTimeDownload) -> None:
    answer = download.answer("POST", f"/{TOKEN}/phone.p12", PHONE)
    assert answer.file is not None
    download.broke_off(answer.file, PHONE)
    assert download.finished.is_set() and download.delivered_names == []
    assert fetch(download).status == 410


def test_who_asks_too_often_has_to_wait_and_others_have_not(download: OneTimeDownload, clock: Clock) -> None:
    for _ in range(OneTimeDownload.REQUESTS):
        assert download.answer("GET", "/guess", STRANGER).status == 404
    assert download.answer("GET", "/guess", STRANGER).status == 429
    assert download.answer("GET", f"/{TOKEN}", STRANGER).status == 200, "the token counts before any limit"
    assert download.answer("GET", f"/{TOKEN}", PHONE).status == 200
    clock.now += OneTimeDownload.WINDOW_SECONDS
    assert download.answer("GET", "/guess", STRANGER).status == 404


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
    download: OneTimeDownload, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.DEBUG)
    assert download.answer("GET", path, PHONE).status == 404
    assert not caplog.records
    download.answer("GET", f"/x{path}", PHONE)
    assert len(caplog.records) == 1, "beside it nothing is passed over in silence"


def test_a_flood_does_not_fill_the_terminal(
    download: OneTimeDownload, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(OneTimeDownload.REQUESTS + 1000):
        download.answer("GET", "/guess", STRANGER)
    assert len(caplog.records) == OneTimeDownload.REQUESTS + 1


def test_the_rate_limit_remembers_no_more_clients_than_it_says(clock: Clock) -> None:
    limit = RateLimit(1, 10, clock)
    assert limit.allows("first") and not limit.allows("first")
    for number in range(RateLimit.MOST_CLIENTS):
        limit.allows(str(number))
    assert limit.allows("first")


def test_every_refusal_is_logged_without_token_path_or_secret(
    download: OneTimeDownload, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    download.answer("GET", f"/{TOKEN[:-1]}", STRANGER)
    download.answer("GET", f"/{TOKEN}/phone.p12", STRANGER)
    download.answer("POST", f"/{TOKEN}/other", STRANGER)
    fetch(download)
    fetch(download)
    download.malformed(400, STRANGER)
    clock.now += SECONDS
    download.answer("GET", f"/{TOKEN}", STRANGER)
    assert [record.levelname for record in caplog.records].count("WARNING") == 6
    assert f"Refused: {PHONE} asked for what was already fetched (410)." in caplog.text
    assert f"phone.p12 was fetched by {PHONE}." in caplog.text
    assert TOKEN[:-1] not in caplog.text
    assert PASSWORD not in caplog.text and "bytes" not in caplog.text
