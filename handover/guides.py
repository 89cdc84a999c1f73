"""How the bundle gets onto each platform and into the Immich app, step by step.

Platforms differ in where the certificate must go: an app on iOS sees only what was imported into the app
itself, an app on Android only what was installed into the system (immich-app/immich issues 28071 and
30899). Texts may hold `{bundle}`, `{profile}` and `{device}`; none of them is HTML.
"""

from dataclasses import dataclass

from pki import Platform


@dataclass(frozen=True)
class Step:
    """One numbered step: a title, sentences, a menu path, and further help."""

    title: str
    text: str
    menu: tuple[str, ...] = ()
    then: str = ""
    note: str = ""


@dataclass(frozen=True)
class Guide:
    """A platform's name, its steps, and how to check that they worked."""

    noun: str
    steps: tuple[Step, ...]
    test: str


_APP_MENU = ("Login page", "Settings (the gear)", "Advanced", "SSL client certificate", "Import")
_LOG_IN = Step(
    "Log in",
    "Go back to the login page, enter the address above as the server, and log in as at home.",
    note="Enter only the address, with nothing after it.",
)
_APP_TEST = (
    "Turn Wi-Fi off and open the Immich app on mobile data: your pictures load. If it says that the server "
    "is not reachable, the app has no certificate yet: log out and do the step with Import again."
)
_BROWSER_TEST = (
    "Open the address in the browser: it asks which certificate to use, then shows Immich's login page. A "
    "page that says Forbidden (403) means that the browser sent no certificate: close it completely, open it "
    "again and choose this device's certificate."
)
_FIREFOX = (
    "Firefox keeps certificates of its own: Settings, Privacy & Security, View Certificates, Your "
    "Certificates, Import."
)

_IOS = Guide(
    "iPhone or iPad",
    (
        Step(
            "Save the file",
            "Get {bundle} onto the device and save it in the Files app. Its password comes separately: five "
            "groups of four letters and digits.",
        ),
        Step(
            "Give it to the Immich app",
            "Open the app, and do not log in yet.",
            _APP_MENU,
            "Pick {bundle} in Files and type the password, with its dashes.",
            note="The app calls this experimental. Keep it up to date: 2.6 or newer.",
        ),
        _LOG_IN,
        Step(
            "Safari, if you want it there too",
            "Apps and Safari do not share certificates. Take {profile} from the same page, in Safari; it "
            "asks whether to allow a configuration profile. Allow it, then install it:",
            ("Settings", "Profile Downloaded", "Install"),
            "It asks for the device's code first, then for the certificate's password.",
        ),
    ),
    _APP_TEST,
)

_ANDROID = Guide(
    "Android device",
    (
        Step(
            "Save the file",
            "Get {bundle} onto the device, into Downloads. Its password comes separately: five groups of "
            "four letters and digits.",
        ),
        Step(
            "Install it in Android",
            "The kind matters: it must be a VPN & app user certificate.",
            (
                "Settings",
                "Security & privacy",
                "Encryption & credentials",
                "Install a certificate",
                "VPN & app user certificate",
            ),
            "Pick {bundle}, type the password with its dashes, and keep the name {device}.",
            note="Menus differ between makers: search the settings for “certificate”. A child's account "
            "under Family Link cannot install one.",
        ),
        Step(
            "Choose it in the Immich app",
            "Open the app (2.6 or newer), and do not log in yet.",
            _APP_MENU,
            "Android shows the certificates that it has; choose {device}.",
            note="If nothing happens on Import, Android has no certificate yet: go back one step. The app "
            "calls this experimental.",
        ),
        _LOG_IN,
        Step(
            "Chrome, if you want it there too",
            "Nothing more to install: at the first visit Chrome asks which certificate to use; choose "
            "{device}. Firefox for Android cannot do this.",
        ),
    ),
    _APP_TEST,
)

_MACOS = Guide(
    "Mac",
    (
        Step(
            "Save the file",
            "Get {bundle} onto the Mac. Its password comes separately: five groups of four letters and "
            "digits.",
        ),
        Step(
            "Put it into the login keychain",
            "Double-click {bundle}. Keychain Access asks where to: choose login, not System. Type the "
            "password with its dashes.",
            note="{profile} does the same as a profile: double-click it, then install it in System Settings, "
            "General, Device Management.",
        ),
        Step(
            "Open the address in Safari or Chrome",
            "Quit the browser first, so that it sees the certificate. When it asks, choose {device}; then "
            "type your Mac's own password and press Always Allow.",
            note=_FIREFOX,
        ),
    ),
    _BROWSER_TEST,
)

_WINDOWS = Guide(
    "Windows computer",
    (
        Step(
            "Save the file",
            "Get {bundle} onto the computer. Its password comes separately: five groups of four letters and "
            "digits.",
        ),
        Step(
            "Import it",
            "Double-click {bundle}. The import wizard asks:",
            ("Current User", "Next", "Password", "Choose the store automatically", "Finish"),
            "Type the password with its dashes. It goes into your Personal store. If Windows asks whether to "
            "trust the authority as well, No is fine: only the server needs it.",
        ),
        Step(
            "Open the address in Edge or Chrome",
            "Close all its windows first, so that it sees the certificate. When it asks, choose {device}.",
            note=_FIREFOX,
        ),
    ),
    _BROWSER_TEST,
)

_LINUX = Guide(
    "Linux computer",
    (
        Step(
            "Save the file",
            "Get {bundle} onto the computer. Its password comes separately: five groups of four letters and "
            "digits.",
        ),
        Step(
            "Import it into the browser",
            "In Chrome or Chromium, open chrome://settings/certificates:",
            ("Your certificates", "View imported certificates from Linux", "Import"),
            "Pick {bundle} and type the password with its dashes.",
            note=_FIREFOX,
        ),
        Step(
            "Open the address",
            "Close all windows of the browser first, so that it sees the certificate. When it asks, choose "
            "{device}.",
        ),
    ),
    _BROWSER_TEST,
)

GUIDES = {
    Platform.IOS: _IOS,
    Platform.ANDROID: _ANDROID,
    Platform.MACOS: _MACOS,
    Platform.WINDOWS: _WINDOWS,
    Platform.LINUX: _LINUX,
}
"""One guide for each platform."""
