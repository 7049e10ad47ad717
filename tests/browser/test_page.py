"""Claims about the page that `FluxWidget.save` writes, opened in Chromium."""

import pytest
import stubs

from fluxnb.widgets import FluxWidget

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect
PROMPT = "a cat </script><script>window.broken = true</script>"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    widget = FluxWidget(stubs.session(), prompt=PROMPT, num_steps=3)
    yield widget.save(tmp_path_factory.mktemp("saved") / "cat.html", blocks=("all", "3"))
    widget.close()


@pytest.fixture
def view(page, saved):
    page.requests = []
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(saved.as_uri())
    expect(page.locator(".fluxnb-where")).to_have_text("step 3 of 3 · σ 0.000")
    yield page
    assert page.troubles == []


def test_it_scrubs_and_shows_words_with_no_request_at_all(view, saved):
    view.get_by_label("step", exact=True).focus()
    view.keyboard.press("Home")
    expect(view.locator(".fluxnb-where")).to_have_text("step 0 of 3 · σ 1.000")
    view.get_by_role("radio", name="noisy").click()
    view.get_by_role("radio", name="cat", exact=True).click()
    expect(view.locator(".fluxnb-frame canvas")).to_be_visible()
    expect(view.locator(".fluxnb-mass")).to_contain_text("In step 0 the picture looks at")
    assert [url for url in view.requests if not url.startswith("blob:")] == [saved.as_uri()]


def test_it_offers_only_what_it_holds(view):
    assert view.get_by_label("blocks").locator("option").all_text_contents() == ["all", "single 1"]
    expect(view.get_by_label("prompt")).to_be_disabled()
    expect(view.locator(".fluxnb-go")).to_be_hidden()
    expect(view.get_by_role("status").first).to_contain_text("a saved page · 3 steps in")


def test_a_prompt_with_markup_is_only_text(view):
    expect(view).to_have_title(PROMPT)
    expect(view.get_by_label("prompt")).to_have_value(PROMPT)
    assert view.evaluate("() => window.broken") is None


def test_the_page_forbids_itself_every_request(view):
    with pytest.raises(Exception, match="Failed to fetch"):
        view.evaluate("() => fetch('http://127.0.0.1:9/')")
    assert any("Content Security Policy" in text for text in view.troubles)
    view.troubles.clear()
