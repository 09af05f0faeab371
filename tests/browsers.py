"""A headless Chromium for tests, which asks nobody but this machine."""

import contextlib
import shutil

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--window-size=1200,900",
    # Pages may ask for fonts of other hosts; a test asks nobody else.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)  # fmt: skip
PATIENCE = 90


@contextlib.contextmanager
def chromium(directory):
    """Start a browser with a profile in that directory."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium and chromedriver are not on this machine: the UI is NOT tested")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={directory}/profile"):
        options.add_argument(flag)
    service = webdriver.chrome.service.Service(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def shown(browser, css, condition=lambda element: True):
    """Wait until the page has an element for which the condition holds; return it."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def find(driver):
        return next((e for e in driver.find_elements(By.CSS_SELECTOR, css) if condition(e)), None)

    wait = WebDriverWait(browser, PATIENCE, ignored_exceptions=[StaleElementReferenceException])
    return wait.until(find, f"no such {css}")


def until(browser, condition):
    """Wait until the condition holds."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, PATIENCE).until(lambda driver: condition())


def violations(browser):
    """What pages wanted and their policy forbade, since this was asked last."""
    said = [entry["message"] for entry in browser.get_log("browser")]
    return [text for text in said if "Content Security Policy" in text or "CORS" in text]
