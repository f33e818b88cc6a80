"""Start a browser without a window, to take pictures of scenes."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from synpol.errors import InputError

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: flags for WebGL2 in software and no requests to other machines
_FLAGS = (
    "--headless=new",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


@contextlib.contextmanager
def browser(size: tuple[int, int] = (1200, 900), flags: Sequence[str] = ()) -> Iterator[Chrome]:
    """Start Chromium without a window and close it at the end; it reaches only this machine.

    Parameters
    ----------
    size : (int, int)
        Width and height of the page, pixels.
    flags : sequence of str
        More command-line flags of Chromium.

    Yields
    ------
    selenium.webdriver.Chrome
        Running browser.

    Raises
    ------
    InputError
        Chromium, its driver or selenium is not installed.
    """
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        raise InputError(
            "a picture of the scene needs Chromium and its driver; on Debian: apt-get install "
            "chromium chromium-driver"
        )
    try:
        from selenium import webdriver
    except ModuleNotFoundError:
        raise InputError(
            "a picture of the scene needs selenium: pip install 'synpol[screenshot]'"
        ) from None
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*_FLAGS, *flags, f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    if os.getuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(prefix="synpol-browser-") as profile:
        options.add_argument(f"--user-data-dir={profile}")
        page = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            yield page
        finally:
            page.quit()
