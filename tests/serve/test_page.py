"""The page of the server in Chromium."""

import contextlib
import logging

import pytest
from playwright.sync_api import Error, expect

from pav_jax.booster.guard import Guard
from pav_jax.serve.options import ServeLimits
from pav_jax.serve.preview import Previewer
from tests.fakes import FakeGenerator
from tests.serve.backends import SECRET, FakeBackend, Gate, running
from tests.serve.browser import (
    CHROMIUM,
    LOAD_FROM_ELSEWHERE,
    LOWEST_CONTRAST,
    PHONE,
    PROMPT,
    REWRITE,
    UNITS,
    GuardedBackend,
    chromium,
    complaints,
    error_of,
    foreign_requests,
    marked,
    refine,
    rewrite_of,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser():
    expect.set_options(timeout=60_000)
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser):
    """visit(address) opens the page as a new user; it loads from nowhere else and logs no error."""
    problems = []
    with contextlib.ExitStack() as stack:

        def open_page(address, **options):
            context = stack.enter_context(contextlib.closing(browser.new_context(**options)))
            page = context.new_page()
            page.set_default_timeout(60_000)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda message: problems.extend(complaints(message)))
            page.on("request", lambda request: problems.extend(foreign_requests(request, address)))
            page.goto(address)
            ready = page.locator("#model option, #key-form:not([hidden])")
            ready.first.wait_for(state="attached")
            return page

        yield open_page
    assert not problems


def test_page_refines_and_shows_what_was_kept(visit):
    with running(GuardedBackend(negative_prompt="blurry", settings={"ar": "9:16"})) as (
        address,
        *_,
    ):
        page = visit(address)
        refine(page)
        assert page.locator("#prompt").input_value() == PROMPT
        assert page.locator("#source").inner_text() == PROMPT
        assert rewrite_of(page) == REWRITE
        for kind, units in UNITS.items():
            assert page.locator(f"#units .{kind}").all_inner_texts() == units
        assert page.locator("#units dt").all_inner_texts() == [
            "✓ kept (3)",
            "✗ contradicted (1)",
            "? missing (1)",
            "+ added (1)",
        ]
        assert marked(page, "source", "contradicted") == ["no people"]
        assert marked(page, "source", "missing") == ["kites"]
        assert marked(page, "backdrop", "added") == ["birds"]
        assert "crimson" in marked(page, "backdrop", "new")
        assert page.locator("#faith").inner_text() == "Faithfulness: 0.29 of 1."
        flags = page.locator("#flags").inner_text().split("\n")
        assert flags == ["-ar", "9:16", "negative prompt", "blurry"]
        assert page.locator("#notice").is_hidden()


def test_page_marks_edits_and_undoes_them(visit):
    with running(GuardedBackend()) as (address, *_):
        page = visit(address)
        refine(page)
        page.get_by_label("The rewrite").fill("two red kites over a purple beach")
        assert marked(page, "backdrop", "new") == ["purple"]
        assert marked(page, "source", "gone") == []
        assert "Your edits are not compared." in page.locator("#faith").inner_text()
        size = "element => [element.clientWidth, element.clientHeight, element.scrollHeight]"
        text, copy = (page.locator(f"#{name}").evaluate(size) for name in ("rewrite", "backdrop"))
        assert text == copy
        assert text[1] == text[2]  # nothing to scroll
        page.get_by_role("button", name="Undo edits").click()
        assert rewrite_of(page) == REWRITE
        assert page.get_by_role("button", name="Undo edits").is_hidden()


def test_page_sends_the_fields_that_are_set(visit):
    backend = GuardedBackend()
    with running(backend) as (address, *_):
        page = visit(address)
        assert refine(page).request.post_data_json == {"prompt": PROMPT, "model": "fake", "seed": 0}
        page.get_by_text("What the rewrite must keep").click()
        prompt = page.get_by_label("Your prompt", exact=True)
        prompt.evaluate("element => element.setSelectionRange(4, 13)")
        page.get_by_role("button", name="Add the words").click()
        page.get_by_label("Model").select_option("other")
        page.get_by_label("Mode", exact=True).select_option("on")
        page.get_by_label("Longest rewrite").fill("40")
        page.get_by_label("Fidelity").fill("0.8")
        page.get_by_label("Language").select_option("any")
        page.get_by_label("Seed").fill("7")
        prompt.focus()
        with page.expect_response("**/refine") as response:
            page.keyboard.press("Control+Enter")
        assert response.value.status == 200
        assert response.value.request.post_data_json == {
            "prompt": PROMPT,
            "model": "other",
            "seed": 7,
            "mode": "on",
            "keep": ["red kites"],
            "max_words": 40,
            "fidelity": 0.8,
            "language": "any",
        }
        assert backend.requests[0].guard == backend.guard
        fields = {"mode": "on", "keep": ["red kites"], "max_words": 40, "fidelity": 0.8}
        assert backend.requests[1].guard == Guard(**fields, language="any")


def test_page_says_why_a_prompt_stands(visit):
    reason = "no rewrite was good enough: without 'kites' (4)"
    backend = GuardedBackend(refined=PROMPT, reverted=True, reason=reason)
    with running(backend) as (address, *_):
        page = visit(address)
        refine(page)
        assert rewrite_of(page) == PROMPT
        assert page.locator("#notice").inner_text() == f"Unchanged: {reason}"


def test_page_shows_errors_in_one_line(visit):
    def answer(request):
        if "fail" in request.prompts[0]:
            raise RuntimeError
        return REWRITE

    with running(FakeBackend(answer), ServeLimits(max_tokens=10)) as (
        address,
        _,
        process,
        thread,
    ):
        page = visit(address)
        button = page.get_by_role("button", name="Rewrite", exact=True)
        button.click()
        assert error_of(page) == "Your prompt is empty; write at least one word"
        refine(page, "fail")
        assert error_of(page).startswith("Error: the server failed to answer; its log")
        refine(page, "x" * 10_001)
        assert error_of(page).startswith("Error: the prompt has 10,001 characters; shorten it")
        page.get_by_text("What the rewrite must keep").click()
        for name, value in (("Fidelity", "1.5"), ("Longest rewrite", "2"), ("Seed", "")):
            field = page.get_by_label(name)
            before = field.input_value()
            field.fill(value)
            refine_button = page.get_by_role("button", name="Rewrite", exact=True)
            refine_button.click()
            assert error_of(page).startswith(name)
            assert field.evaluate("element => element == document.activeElement")
            field.fill(before)
        page.get_by_label("Terms to keep").fill("blue whale")
        button.click()
        assert error_of(page) == (
            "Terms to keep: the prompt has no “blue whale”; write it as there"
        )
        page.get_by_label("Terms to keep").fill("")
        assert refine(page).status == 200
        assert page.get_by_role("alert").is_hidden()
        process.should_exit = True
        thread.join(10)
        button.click()
        page.locator("#error").wait_for()
        assert error_of(page) == "Error: the server cannot be reached; is it still running?"
        assert page.locator("#error").bounding_box()["height"] < 100


def test_page_waits_stops_and_says_that_the_queue_is_full(visit):
    gate = Gate()
    backend = FakeBackend(gate, num_rows=1)
    with running(backend, ServeLimits(max_queue=0)) as (address, state, *_):
        first, second = visit(address), visit(address)
        first.get_by_label("Your prompt", exact=True).fill(PROMPT)
        first.get_by_role("button", name="Rewrite", exact=True).click()
        assert gate.entered.acquire(timeout=60)
        assert first.get_by_role("status").first.inner_text() == "Rewriting …"
        assert first.get_by_role("button", name="Rewrite", exact=True).is_disabled()
        refine(second)
        assert "the queue is full: 1 waiting or in work; try again in" in error_of(second)
        first.get_by_role("button", name="Stop").click()
        assert gate.left.acquire(timeout=60)  # the server has given it up
        first.get_by_text("Stopped.").wait_for()
        while state.num_in_work:
            first.wait_for_timeout(10)
        gate.is_open.set()
        refine(first)
        assert rewrite_of(first) == "done"


def test_page_again_and_copy(visit):
    backend = FakeBackend(lambda request: f"kites {request.seed}")
    with running(backend) as (address, *_):
        page = visit(address, permissions=["clipboard-read", "clipboard-write"])
        refine(page)
        assert "Not compared" in page.locator("#faith").inner_text()
        with page.expect_response("**/refine"):
            page.get_by_role("button", name="Again").click()
        expect(page.get_by_label("The rewrite")).to_have_value("kites 1")
        assert page.get_by_label("Seed").input_value() == "1"
        page.get_by_label("The rewrite").fill("kites, edited")
        page.get_by_role("button", name="Copy").click()
        page.get_by_text("Copied.").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == "kites, edited"


def test_page_history_is_of_this_browser(visit):
    with running(FakeBackend()) as (address, *_):
        page = visit(address)
        refine(page, SECRET)
        refine(page, "a dog runs")
        page.reload()
        entries = page.locator("#history button")
        assert entries.count() == 2
        entries.nth(1).click()
        assert rewrite_of(page) == SECRET.upper()
        assert page.locator("#prompt").input_value() == SECRET
        other = visit(address)
        assert SECRET not in other.content().lower()
        assert other.locator("#history button").count() == 0
        assert other.evaluate("localStorage.length") == 0
        page.get_by_role("button", name="Clear history").click()
        page.reload()
        assert page.locator("#history button").count() == 0
        assert SECRET not in page.evaluate("JSON.stringify(localStorage)")


def test_page_with_a_damaged_history(visit):
    with running(FakeBackend()) as (address, *_):
        page = visit(address)
        for stored in ("{", "[1, null, {}]", '{"a": 1}'):
            page.evaluate("value => localStorage.setItem('pav.history', value)", stored)
            page.reload()
            refine(page)
            assert page.locator("#history button").count() == 1


def test_page_shows_markup_as_text(visit):
    markup = "<script>window.isRun = 1</script><img src=x onerror='window.isRun = 1'> &amp; <b>cat"
    fields = {"refined": f"{markup} <i>dog", "reason": markup, "settings": {markup: markup}}
    backend = GuardedBackend(missing=[markup], **fields)
    backend.models = ["<b>fake"]
    with running(backend) as (address, *_):
        page = visit(address)
        refine(page, markup)
        assert page.locator("#source").inner_text() == markup
        assert rewrite_of(page) == f"{markup} <i>dog"
        assert markup in page.locator("#history").inner_text()
        assert markup in page.locator("#notice").inner_text()
        assert page.locator("main img, main script, main b, main i").count() == 0
        assert page.evaluate("window.isRun") is None


def test_page_shows_videos_where_there_is_a_generator(visit):
    generator = FakeGenerator()
    with running(GuardedBackend(), key="k", previewer=Previewer(generator)) as (address, *_):
        page = visit(address)
        page.get_by_label("API key").fill("k")
        page.get_by_role("button", name="Use key").click()
        page.locator("#key-form[hidden]").wait_for(state="attached")
        refine(page)
        page.get_by_role("button", name="Make videos").click()
        for title in ("Video of the prompt", "Video of the rewrite"):
            video = page.locator("video").and_(page.get_by_label(title))
            expect(video).to_have_js_property("videoWidth", 16)
        assert generator.made == [(PROMPT, 0), (REWRITE, 0)]
        refine(page)
        assert page.locator("video").count() == 0
    with running(GuardedBackend()) as (address, *_):
        page = visit(address)
        refine(page)
        assert page.get_by_role("button", name="Make videos").is_hidden()


def test_page_asks_for_the_key(visit, caplog):
    caplog.set_level(logging.DEBUG)
    key = "s3cret-key"
    with running(GuardedBackend(), key=key) as (address, *_):
        page = visit(address)
        field = page.get_by_label("API key")
        for wrong, words in (("wrong", "the API key"), ("schlüssel ✓", "no key can have")):
            field.fill(wrong)
            page.get_by_role("button", name="Use key").click()
            page.locator("#error").wait_for()
            assert words in error_of(page)
        field.fill(key)
        page.get_by_role("button", name="Use key").click()
        page.locator("#key-form[hidden]").wait_for(state="attached")
        assert refine(page).status == 200
        page.reload()  # the tab remembers it
        assert refine(page).status == 200
        assert key not in page.content() + page.evaluate("JSON.stringify(localStorage)") + page.url
        page.get_by_role("button", name="Forget the key").click()
        field.wait_for()
        assert refine(page).status == 401
    assert key not in caplog.text


def test_page_fits_a_phone(visit):
    backend = GuardedBackend(reason="x" * 200, missing=("y" * 100,), settings={"z" * 50: "z" * 90})
    backend.models = ["fake/" + "m" * 120]
    with running(backend) as (address, *_):
        page = visit(address, viewport=PHONE, has_touch=True)
        page.get_by_text("What the rewrite must keep").click()
        refine(page, f"{PROMPT} {'w' * 150}")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        for button in page.get_by_role("button").all():
            assert button.bounding_box()["height"] >= 40
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(LOWEST_CONTRAST) >= 4.5  # of WCAG 2, level AA


def test_page_policy_lets_no_text_become_a_script(browser):
    context = contextlib.closing(browser.new_context())
    with running(FakeBackend()) as (address, *_), context as user:
        page = user.new_page()
        page.goto(address)
        with pytest.raises(Error, match="TrustedHTML"):
            page.evaluate("document.body.innerHTML = '<b>x'")
        assert page.evaluate(LOAD_FROM_ELSEWHERE) == "https://example.com/x.png"
