"""What people get, in a real Chromium: it visits the exposed lab with a bundle, without one and too late, and
shows the install sheet as on a phone and on a computer.

Screenshots are kept in `.lab-artifacts/`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from lab import Lab
from tests.lab.browser import Browser
from tests.lab.operator import Operator
from toolchain import ToolchainError, system
from toolchain.paths import PROJECT

pytestmark = pytest.mark.lab

ARTIFACTS = PROJECT / ".lab-artifacts"
FORBIDDEN = re.compile(r'"status": ?403')

BrowserMaker: TypeAlias = Callable[[str], Browser]


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator who has exposed the server for a laptop, and another one."""
    try:
        system.ensure(system.BROWSER)
    except ToolchainError as error:  # Ubuntu has Chromium as a snap alone
        pytest.skip(str(error))
    operator = Operator(tmp_path_factory.mktemp("browser"), lab.info(), stack="browser")
    operator.devices("laptop", "lost")
    operator.init()
    operator.up()
    yield operator
    operator.destroy()


@pytest.fixture
def make_browser(lab: Lab, tmp_path: Path) -> BrowserMaker:
    """Return a maker of browsers of different people, each without a certificate yet."""

    def make(person: str) -> Browser:
        browser = Browser(tmp_path / person, lab.domain)
        browser.set_up(Path(lab.info()["roots_file"]))
        return browser

    return make


def bundle(operator: Operator, device: str) -> tuple[Path, str]:
    """The bundle of a device and its password, as the operator hands them over."""
    outputs = operator.outputs(show_secrets=True)
    return Path(outputs["devices"][device]["bundle"]), outputs["bundlePasswords"][device]


def test_the_page_loads_with_the_bundle_and_only_a_shared_link_without(
    operator: Operator, make_browser: BrowserMaker
) -> None:
    stranger, owner = make_browser("stranger"), make_browser("owner")
    page = stranger.visit("/", ARTIFACTS / "browser-without-certificate.png")
    assert FORBIDDEN.search(page), page
    page = stranger.visit("/share/labsharekey", ARTIFACTS / "browser-shared-link.png")
    assert "<title>Holiday</title>" in page
    owner.install(*bundle(operator, "laptop"))
    page = owner.visit("/", ARTIFACTS / "browser-with-certificate.png")
    assert "<title>Immich</title>" in page
    assert not FORBIDDEN.search(page)
    page = owner.visit("/immich-exposure", ARTIFACTS / "browser-device-page.png")
    assert "<title>laptop: this device's certificate</title>" in page and "All is well." in page
    assert FORBIDDEN.search(stranger.visit("/immich-exposure", ARTIFACTS / "browser-no-device-page.png"))


def test_a_page_runs_its_own_scripts_and_none_that_was_smuggled_in(make_browser: BrowserMaker) -> None:
    stranger = make_browser("stranger")
    page = stranger.visit("/share/labhostile", ARTIFACTS / "browser-hostile-link.png")
    assert "dataset.smuggled" in page and 'data-started="yes"' in page
    assert "data-smuggled" not in page


@pytest.mark.parametrize("width", [360, 1280], ids=["phone", "computer"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_sheet_fits_the_screen(
    operator: Operator, make_browser: BrowserMaker, width: int, dark: bool
) -> None:
    sheet = operator.outputs()["devices"]["laptop"]["sheet"]
    picture = ARTIFACTS / f"sheet-{width}-{'dark' if dark else 'light'}.png"
    look = make_browser("owner").look(Path(sheet), picture, width=width, dark=dark)
    assert look.width == width and look.needed <= width, "nobody has to scroll sideways"
    assert (look.ground < 0.2 and look.ink > 0.8) if dark else (look.ground > 0.8 and look.ink < 0.2), look


def test_a_lost_laptop_is_refused_while_the_other_goes_on(
    operator: Operator, make_browser: BrowserMaker
) -> None:
    finder, owner = make_browser("finder"), make_browser("owner")
    finder.install(*bundle(operator, "lost"))
    owner.install(*bundle(operator, "laptop"))
    assert "<title>Immich</title>" in finder.visit("/", ARTIFACTS / "browser-before-revocation.png")
    operator.devices("laptop")
    operator.up()
    page = finder.visit("/", ARTIFACTS / "browser-after-revocation.png")
    assert FORBIDDEN.search(page), page
    assert "<title>Immich</title>" in owner.visit("/", ARTIFACTS / "browser-of-another-device.png")
