"""The report in a real browser: what a reader hovers, clicks and types; nothing leaves the page."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.report.synthetic import make_bank, make_explanation, make_gain, make_relations
from tests.report.test_pages import NASTY, trusted
from vrx.concepts.names import read_names
from vrx.edits import Editor
from vrx.report.mistakes import Predictions
from vrx.report.pages import write_comparison, write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium among the system's programs"),
]
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos, the second shown first, the third called a wrong class; one more of that cell not explained."""
    relations = make_relations((1, 2, 3, 4), together={(1, 2): [0.8, 0, 0], (3, 4): [-0.4, 0, 0]})
    gains = (make_gain(1, 2, [-0.2, 0.6, 0], [-1.2, 2.4, 0]),)
    detected = np.ones((3, 4), bool)
    detected[1, 2] = False
    best = replace(
        trusted(True, seed=1), relations=relations, counterfactuals=gains, class_names=(EVIL, "ambulance", "bus")
    )
    best = replace(best, matched=np.where(detected, best.matched, -1), gradcam=np.ones((3, 4, 4), np.float32))
    others = [make_explanation(seed=0, name=NASTY), make_explanation(seed=2, name="wrong.jpg", true_class=1)]
    photos = [replace(e, class_names=best.class_names) for e in (others[0], best, others[1])]
    bank = replace(make_bank(), class_names=best.class_names)
    logits = np.array([e.logits for e in photos] + [photos[2].logits])
    tested = Predictions([e.name for e in photos] + ["more.jpg"], logits, np.array([0, 0, 1, 1]))
    pairs = np.full((3, 4, 4), np.nan)
    pairs[0, 0, 1] = 0.25
    return write_report(tmp_path_factory.mktemp("report"), EVIL, {}, photos, bank, {}, [], (), tested, pairs)


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The report, opened; no request may leave it and nothing may go wrong in it."""
    yield from opened(browser, report)


def opened(browser: Any, path: Path, **settings: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1300, "height": 900}, **settings)
    tab = context.new_page()
    problems: list[str] = []
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("dialog", lambda dialog: (problems.append("a script of a name ran"), dialog.dismiss()))
    tab.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else problems.append(r.url))
    tab.goto(path.as_uri())
    yield tab
    context.close()
    assert problems == []


def lit(page: Any, selector: str) -> list[str]:
    return page.eval_on_selector_all(f"{selector}.lit", "all => all.map(e => e.dataset.labels || e.dataset.concept)")


def test_the_best_photo_is_open_and_names_stay_text(page: Any) -> None:
    assert page.eval_on_selector_all("article.current", "all => all.map(a => a.id)") == ["photo-2"]
    assert page.locator("article.current h3").first.inner_text() == f"Why {EVIL}?"
    assert page.locator("h1").inner_text() == EVIL
    assert page.locator(".strip a").first.get_attribute("title") == NASTY.split("/")[-1]


def test_hover_lights_the_concept_up_everywhere(page: Any) -> None:
    page.locator(".row[data-labels='3']").first.hover()
    assert lit(page, ".disc") == ["3"] and lit(page, ".row") == ["3"]
    assert "3" in lit(page, ".region") and lit(page, ".concept") == ["0-2"]
    page.locator(".row[data-both]").first.hover()
    assert sorted(lit(page, ".disc")) == ["1", "2"] and "1 2" in lit(page, ".link")
    page.locator("#concepts").hover()
    assert lit(page, ".disc") == []
    page.locator(".concept[data-concept='0-3']").hover()
    assert lit(page, ".disc") == ["4"]


def test_a_click_opens_what_is_known_of_a_concept(page: Any) -> None:
    page.locator(".row[data-concept='0-3']").click()
    detail = page.locator("#detail")
    text = detail.inner_text()
    assert "Concept 4" in text and "+1.0" in text and "Where else it was found" in text
    assert detail.locator("svg mask path").count() == 1 and detail.locator("img").count() == 1
    page.keyboard.press("Escape")
    assert detail.is_hidden() and page.evaluate("document.activeElement.dataset.concept") == "0-3"


def test_the_photo_with_a_concept_deleted_is_what_the_classifier_was_shown(page: Any) -> None:
    """The page redraws it in SVG: close to what the editor made, far from the photo."""
    explanation = make_explanation(seed=0)
    photo = torch.from_numpy(explanation.image.copy()).permute(2, 0, 1)[None].float()
    found = np.flatnonzero(explanation.detected[0]).tolist()
    masks = np.stack([explanation.mask(0, k) for k in found])
    edited = Editor("blur", 0.027).delete(photo, torch.from_numpy(masks)).permute(0, 2, 3, 1).numpy()
    change = [np.abs(made - explanation.image)[mask].mean() for made, mask in zip(edited, masks, strict=True)]
    most = int(np.argmax(change))
    page.locator(".strip a").first.click()
    page.locator(f"article.current .row[data-concept='0-{found[most]}']").click()
    shot = Image.open(io.BytesIO(page.locator("#detail .two svg").nth(1).screenshot())).convert("RGB")
    drawn = np.asarray(shot.resize((128, 128), Image.Resampling.BOX), float)
    smooth, smooth_made = (gaussian_filter(pixels, (1, 1, 0)) for pixels in (drawn, edited[most]))
    error = np.abs(smooth - smooth_made)[masks[most]].mean()
    assert error < 5 < change[most] / 5  # of 255


def test_gradcam_is_laid_over_the_photos_and_taken_off(page: Any) -> None:
    heat, discs, button = (page.locator(f"article.current .panel {what}") for what in (".heat", ".disc", ".toggle"))
    assert heat.count() == button.count() == 2, "of both classes"
    for on in (False, True, False):
        assert [h.is_visible() for h in heat.all()] == [on] * 2
        assert discs.first.is_visible() == (not on)
        assert button.first.get_attribute("aria-pressed") == str(on).lower()
        button.nth(int(on)).click()
    page.evaluate("location.hash = '#photo-1'")
    page.wait_for_selector("#photo-1.current")
    assert page.locator("article.current .toggle").count() == 0, "a photo without maps"


def test_the_keyboard_alone_is_enough(page: Any) -> None:
    page.locator("article.current .disc").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.labels") == "2" and lit(page, ".row") == ["2"]
    page.keyboard.press("Enter")
    assert page.locator("#detail").is_visible()
    assert page.evaluate("document.activeElement.className") == "close"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.labels") == "2"
    page.locator(".strip a").nth(1).focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#photo-3.current")


def test_any_pair_of_classes_and_the_steps_between_add_up(page: Any) -> None:
    heads = page.locator("article.current .panel h3")
    page.get_by_label("and not that class").select_option("2")
    assert heads.all_inner_texts()[:3] == [f"Why {EVIL}?", "Why not bus?", f"From bus to {EVIL}"]
    numbers = page.locator("article.current .panel").nth(2).locator("> .fall .track > span").all_inner_texts()
    start, *steps, end = (float(text.replace("−", "-")) for text in numbers)
    assert len(steps) > 3 and abs(start + sum(steps) - end) < 0.05 * len(numbers)  # each is rounded
    page.get_by_label("Why this class").select_option("2")
    assert heads.nth(2).inner_text() == f"From {EVIL} to bus"


def test_the_questions_of_a_newcomer(page: Any) -> None:
    def ask(text: str) -> str:
        page.keyboard.press("Escape")
        page.get_by_role("link", name=text).click()
        return str(page.locator("article.current .answer").inner_text())

    assert ask("Which part decided?").startswith("Concept 4 supports")
    assert page.locator("#detail").is_visible()
    assert "For ambulance: " in ask("What speaks against it?")
    assert "concept 3 (+2.4 if it were there)" in ask("What is missing?")
    assert ask("Can I trust it?").startswith("Yes. Trust: high.")
    ask("Show me the worst errors")
    assert page.evaluate("location.hash") == "#worst" and "wrong.jpg" in page.locator("#worst").inner_text()
    ask("Why is this pair confused?")
    assert page.locator(".cell:target").count() == 1


def test_a_cell_leads_to_its_photos(page: Any) -> None:
    page.get_by_role("link", name=re.compile("ambulance called .*: 2 photos")).click()
    cell = page.locator(".cell:target")
    text = cell.inner_text()
    assert "wrong.jpg" in text and "1 of them is not explained" in text and "more.jpg" in text
    assert "study=diagnosis" in text
    cell.get_by_role("link", name="wrong.jpg").click()
    page.wait_for_selector("#photo-3.current")


def test_names_are_written_as_vrx_reads_them(page: Any, tmp_path: Path) -> None:
    names = page.locator(".concept[data-concept='0-0'] .name, .concept[data-concept='0-1'] .name")
    names.nth(0).fill('yes: "a" #1')
    names.nth(1).fill('YES: "A" #1')
    page.locator("#export").click()
    assert "same name" in page.locator("#exported").inner_text()
    names.nth(1).fill("12")
    names.nth(1).blur()
    assert page.locator("article.current .row[data-concept='0-1'] b").inner_text() == "12"
    with page.expect_download() as download:
        page.locator("#export").click()
    download.value.save_as(tmp_path / "names.yaml")
    bank = replace(make_bank(), class_names=(EVIL, "ambulance", "bus"))
    assert read_names(tmp_path / "names.yaml", bank)[0] == ['yes: "a" #1', "12", "", ""]


def test_without_scripts_the_page_shows_text_and_pictures(browser: Any, report: Path) -> None:
    for page in opened(browser, report, java_script_enabled=False):
        assert page.locator("article:visible").count() == 3
        assert page.locator("article .seen:visible").count() == 3
        assert "concept 4 contributes +1.0 (measured +1.0)" in page.locator("#photo-2 noscript").inner_text()
        assert page.locator("#photo-2 .region.own").count() > 0
        page.get_by_role("link", name=re.compile("ambulance called .*: 2 photos")).click()
        assert page.locator(".cell:visible").count() == 1


@pytest.mark.parametrize("width", [390, 800])
def test_nothing_is_wider_than_a_phone(browser: Any, report: Path, width: int) -> None:
    for page in opened(browser, report):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_two_runs_are_open_at_once(browser: Any, tmp_path: Path) -> None:
    runs = [[make_explanation(seed=1)], [make_explanation(seed=2)]]
    path = write_comparison(tmp_path / "comparison.html", ["first", "second"], runs, [make_bank(), make_bank()])
    for page in opened(browser, path):
        assert page.locator("article:visible").count() == 2
        page.locator("article").nth(1).locator(".row").first.click()
        assert page.locator("#detail img").count() == 1


def test_the_page_of_a_notebook_works_without_a_bank(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "notebook.html"
    path.write_text(f"<body>{trusted(True)._repr_html_()}</body>")
    for page in opened(browser, path):
        frame = page.frames[1]
        frame.locator(".row").first.click()
        assert frame.locator("#detail svg mask").count() == 1
