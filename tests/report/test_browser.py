"""The report in Chromium, loaded once for all checks: what it asks for, how it looks at any width and by night."""

import numpy as np
import pytest

from autotl.model.doubt import unit_length
from autotl.registry import load_registry
from autotl.report.write import write_report
from autotl.testing.searches import CLASSES, finished_search

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a search whose images have recorded features."""
    search = finished_search(tmp_path_factory.mktemp("reports") / "example", load_registry())
    images = np.arange(18)
    separated = search.dataset.labels[images][:, None] * 3 + np.random.default_rng(0).standard_normal((18, 8))
    search.feature_backbone = "resnet18", "0" * 16
    search.known = images, unit_length(separated.astype(np.float32))
    return write_report(search)


@pytest.fixture(scope="module")
def browser(report, chromium):
    chromium.get("about:blank")
    chromium.get_log("browser")  # what pages of other tests asked of servers that are gone
    chromium.get(report.as_uri())
    return chromium


@pytest.fixture
def width(browser):
    """`width(390)`: show the page in so many pixels."""

    def show(pixels):
        metrics = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    yield show
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_console_has_no_error(browser):
    assert browser.get_log("browser") == []


def test_no_request_leaves(browser):
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [address for address in asked if not address.startswith("data:")] == []


def test_a_request_that_something_tries_is_blocked(browser):
    script = "return await fetch('https://example.org/').then(() => 'sent', () => 'blocked')"
    assert browser.execute_script(f"return (async () => {{ {script} }})()") == "blocked"
    browser.get_log("browser")  # that of the policy


def test_every_figure_has_a_text_alternative(browser):
    without = """return [...document.querySelectorAll('main svg')]
        .filter(svg => !(svg.closest('[role=img]')?.getAttribute('aria-label') || '').trim()).length
        + [...document.querySelectorAll('img')].filter(image => !image.alt.trim()).length"""
    assert browser.execute_script("return document.querySelectorAll('main svg').length") >= 6
    assert browser.execute_script("return document.querySelectorAll('main img').length") >= 6
    assert browser.execute_script(without) == 0


def test_every_picture_is_drawn(browser):
    assert browser.execute_script("return [...document.images].filter(image => !image.naturalWidth).length") == 0


def test_names_are_text_and_not_markup(browser):
    assert browser.execute_script("return document.querySelectorAll('main b').length") == 0
    assert CLASSES[1] in browser.execute_script("return document.querySelector('#classes').textContent")


def test_every_link_leads_to_a_section_with_content(browser):
    empty = """return [...document.querySelectorAll('nav a')].map(link => document.querySelector(link.hash))
        .filter(section => !section || section.textContent.trim().length < 40).length"""
    assert browser.execute_script("return document.querySelectorAll('nav a').length") >= 9
    assert browser.execute_script(empty) == 0


def test_sections_fold(browser):
    heights = """const fold = document.querySelector('details'), closed = fold.offsetHeight;
        fold.querySelector('summary').click(); const open = fold.offsetHeight;
        fold.querySelector('summary').click(); return [closed, open, fold.offsetHeight]"""
    closed, opened, again = browser.execute_script(heights)
    assert opened > closed + 20
    assert again == closed


def column(browser, number):
    script = """const table = [...document.querySelectorAll('table')].find(t => t.innerText.includes('median seconds'));
        return [...table.tBodies[0].rows].map(row => row.cells[arguments[0]].textContent)"""
    return browser.execute_script(script, number)


def head(browser, number):
    script = """const table = [...document.querySelectorAll('table')].find(t => t.innerText.includes('median seconds'));
        return table.tHead.rows[0].cells[arguments[0]]"""
    return browser.execute_script(script, number)


def test_tables_sort_by_numbers_and_by_words(browser):
    before = column(browser, 0)
    browser.execute_script("arguments[0].click()", head(browser, 4))
    assert [float(value) for value in column(browser, 4)] == sorted(float(value) for value in column(browser, 4))
    browser.execute_script("arguments[0].click()", head(browser, 4))
    assert [float(v) for v in column(browser, 4)] == sorted((float(v) for v in column(browser, 4)), reverse=True)
    assert head(browser, 4).get_attribute("aria-sort") == "descending"
    head(browser, 0).send_keys("\n")
    assert column(browser, 0) == sorted(before)
    assert head(browser, 4).get_attribute("aria-sort") is None


@pytest.mark.parametrize("pixels", [390, 1440])
def test_the_page_is_as_wide_as_the_screen_and_its_text_can_be_read(browser, width, pixels):
    width(pixels)
    assert browser.execute_script("return document.scrollingElement.scrollWidth") <= pixels
    beyond = """return [...document.querySelectorAll('p, h1, h2, figure, img, details')]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll')).length"""
    assert browser.execute_script(beyond) == 0
    tiny = """return Math.min(...[...document.querySelectorAll('main svg text')].map(text => {
        const svg = text.ownerSVGElement; return parseFloat(getComputedStyle(text).fontSize)
            * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width }))"""
    assert browser.execute_script(tiny) >= 8.5


CONTRAST = """
const light = colour => { const [r, g, b] = colour.match(/[0-9.]+/g).map(v => { v /= 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 }); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
const back = light(getComputedStyle(document.body).backgroundColor);
const contrast = colour => { const own = light(colour);
    return (Math.max(own, back) + 0.05) / (Math.min(own, back) + 0.05) };
const texts = [...document.querySelectorAll('main p, main td, main th, main a, footer p')];
const drawn = [...document.querySelectorAll('main svg text')];
return [back, Math.min(...texts.map(e => contrast(getComputedStyle(e).color)),
    ...drawn.map(e => contrast(getComputedStyle(e).fill)))]
"""


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_text_stands_out_by_day_and_by_night(browser, scheme, is_dark):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    back, contrast = browser.execute_script(CONTRAST)
    assert (back < 0.2) == is_dark
    assert contrast >= 4.5
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_pointer_on_a_point_of_the_map_shows_its_image(browser):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    points = browser.find_elements(By.CSS_SELECTOR, "#map .point")
    assert len(points) == 18
    point = next(p for p in reversed(points) if p.find_elements(By.CSS_SELECTOR, ".hover"))
    shown = "return getComputedStyle(arguments[0].querySelector('.hover')).display"
    assert browser.execute_script(shown, point) == "none"
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
    ActionChains(browser).move_to_element(point.find_element(By.CSS_SELECTOR, "circle:not(.mistake)")).perform()
    assert browser.execute_script(shown, point) == "inline"


def test_without_scripts_text_and_pictures_are_there(browser, report):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(report.as_uri())
    script = (
        "return [document.querySelectorAll('.sorts').length, document.images.length, document.body.innerText.length]"
    )
    sorts, images, length = browser.execute_script(script)  # of the driver: its scripts run all the same
    assert sorts == 0
    assert images >= 6
    assert length > 4000
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
