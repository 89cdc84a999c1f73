"""Runs the internet and the server while the lab is up, and boots the server again on reboot.

Run by `up` as ``python -m lab.supervisor``, detached. Signals: TERM ends everything, USR1 is the power
button.
"""

import asyncio
import os
import shutil
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Coroutine

from lab import cgroups, internet, processes, server
from lab.errors import LabError
from lab.places import Places
from toolchain import ToolchainError, program

# Where Debian's programs look for public roots; lab-internet's are added, as a real server has Let's
# Encrypt's.
SYSTEM_ROOTS = "etc/ssl/certs/ca-certificates.crt"
ACME_AUTHORITY = "etc/ssl/lab-acme-ca.pem"


class Supervisor:
    """Runs until it is told to end. Raises LabError if lab-internet does not come up."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._ending = asyncio.Event()
        self._power = asyncio.Event()
        self._power.set()

    async def run(self) -> None:
        """Start the internet, then keep the server running."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ending.set)
        loop.add_signal_handler(signal.SIGUSR1, self._power.set)
        outside = await self._start_internet()
        try:
            self._make_roots_known()
            await self._keep_server_running()
        finally:
            if outside.returncode is None:
                outside.kill()  # it keeps nothing that would have to be saved
            await outside.wait()

    async def _start_internet(self) -> Process:
        window = internet.open_window()
        command = internet.command(self._places, program("lab-internet"), window)
        outside = await self._spawn("internet", command, pass_fds=(window.fileno(),))
        window.close()  # now only lab-internet holds it, so the window closes with it
        while not (internet.ready_file(self._places).exists() or self._ending.is_set()):
            if outside.returncode is not None:
                raise LabError(f"lab-internet ended with {outside.returncode}; see its log internet.log.")
            await asyncio.sleep(0.02)
        return outside

    async def _keep_server_running(self) -> None:
        while await self._first(self._power.wait()):
            self._power.clear()
            if server.first_process():
                say("a server is running already: the power button does nothing")
                continue
            box = await self._spawn("server", server.command(self._places, program("tailscaled").parent))
            if not await self._first(box.wait()):
                if first := server.first_process():
                    server.power_off(first)
                else:
                    box.kill()  # it has not got that far
            status = await box.wait()
            say(f"the server has ended with {status}")
            if status == server.REBOOT_STATUS:
                self._power.set()

    async def _first(self, event: Coroutine[object, object, object]) -> bool:
        """Wait for ``event`` or the end; True if it was the event."""
        wanted, ending = asyncio.ensure_future(event), asyncio.ensure_future(self._ending.wait())
        await asyncio.wait({wanted, ending}, return_when=asyncio.FIRST_COMPLETED)
        happened = not self._ending.is_set()
        for task in (wanted, ending):
            task.cancel()
        return happened

    async def _spawn(self, role: str, command: list[str], pass_fds: tuple[int, ...] = ()) -> Process:
        with (self._places.logs / f"{role}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=pass_fds,
                env=os.environ | processes.marks(self._places, role),
            )

    def _make_roots_known(self) -> None:
        root = self._places.root
        shutil.copyfile(internet.acme_authority(self._places), root / ACME_AUTHORITY)
        with (root / SYSTEM_ROOTS).open("a") as file:
            file.write(self._places.roots.read_text())


def say(text: str) -> None:
    """Write one line to the supervisor's log."""
    print(text, flush=True)


def main() -> int:
    """Run for the clone this file belongs to."""
    cgroups.enter()
    try:
        asyncio.run(Supervisor(Places.of_this_clone()).run())
    except (LabError, ToolchainError, OSError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
