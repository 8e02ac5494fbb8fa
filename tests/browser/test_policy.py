"""What models, kernels and strangers wrote runs nowhere; and no page of ours does what its policy forbids."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Dialog, Page, Response, expect

from tests.browser.steps import reaches as stream_reaches
from tests.browser.steps import started, text, write
from tests.browser.test_notebook_page import HANDLERS, cell, fill, operations_of, outputs, reaches, run
from tests.integration.conftest import TOKEN
from tests.integration.test_admin import LIST, staff_of
from tests.support.browser import Visit, visit
from tests.support.servers import Server, running
from tests.support.upstream import COMMANDS, KEY, model_service

ACT: Final = "top.__pwned=1"

PAYLOADS: Final = [
    "<script>@</script>",
    "<ScRiPt >@</sCrIpT >",
    "\"'><script>@</script>",
    "</script><script>@</script>",
    "</textarea></title></style></template><script>@</script>",
    "<!--><script>@</script>-->",
    "<img src=x onerror=@>",
    '<img src=x onerror="@">',
    "<img/src=x/onerror=@>",
    '"><img src=x onerror=@>',
    "' autofocus onfocus='@' x='",
    "<svg onload=@>",
    "<svg/onload=@>",
    "<svg><script>@</script></svg>",
    "<svg><script href='data:text/javascript,@'/></svg>",
    "<svg><animate onbegin=@ attributeName=x dur=1s>",
    "<svg><a xlink:href='javascript:@'><text y=9>x</text></a></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=@&gt;'>",
    "<body onload=@>",
    "<iframe src='javascript:@'></iframe>",
    "<iframe srcdoc='<script>@</script>'></iframe>",
    "<object data='javascript:@'></object>",
    '<embed src=\'data:image/svg+xml,<svg xmlns="http://www.w3.org/2000/svg" onload="@"/>\'>',
    "<details open ontoggle=@>x</details>",
    "<input autofocus onfocus=@>",
    "<video><source onerror=@></video>",
    "<audio src=x onerror=@></audio>",
    "<marquee onstart=@>x</marquee>",
    "<form action='javascript:@'><button autofocus>x</button></form>",
    "<a href='javascript:@'>link</a>",
    "<a href='java\tscript:@' target=_self>link</a>",
    "<base href='javascript:@//'>",
    "<meta http-equiv=refresh content='0;url=javascript:@'>",
    "<link rel=stylesheet href='javascript:@'>",
    "<style>@import 'javascript:@';</style>",
    '<div style="width:expression(@);background:url(javascript:@)">x</div>',
    "[link](javascript:@)",
    '![x](x"onerror="@)',
    "<javascript:@>",
    "{{constructor.constructor('@')()}}",
    "\u001b]8;;javascript:@\u0007link\u001b]8;;\u0007",
]
"""Each would run `@` somewhere, once."""

HOSTILE: Final = [each.replace("@", ACT) for each in PAYLOADS]

STOPPED: Final = ("Content Security Policy", "violates", "Failed to load", "Blocked autofocusing")
"""What the console says of a payload that was stopped, and of pages that are not there."""

CELL: Final = """
from IPython.display import HTML, Javascript, Latex, Markdown, display
act, hostile = ...
lines = "\\n".join(hostile)
display(HTML("<b id='mark' style='color: rgb(1, 2, 3)'>seen</b>" + lines))
svg = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9' "
display({"image/svg+xml": f"{svg} onload='{act}'><script>{act}</script></svg>"}, raw=True)
for each in hostile[:12]:
    display({"image/svg+xml": f"{svg}>{each}</svg>"}, raw=True)
display(Javascript(act))
display({"application/javascript": act, "application/x+json": {"a": f"<script>{act}</script>"}}, raw=True)
display(Markdown(lines), Latex(lines))
display({"text/plain": lines, "image/png": f'x" onerror="{act}'}, raw=True)
display({each: each for each in hostile}, raw=True)
print(lines)
raise type(hostile[0], (Exception,), {})(lines)
""".replace("...", repr((ACT, HOSTILE)))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fort(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server that runs code, and whose model says what strangers told it."""
    async with model_service() as model:
        choices = {
            "KERNELS_ENABLED": "loopback",
            "OPENAI_API_KEY": KEY,
            "OPENAI_API_BASE": model.base,
            "OPENAI_MODEL": "commands",
        }
        with running("serve", tmp_path_factory.mktemp("fort"), **choices) as made:
            yield made
            assert "Traceback" not in made.log()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def boss(fort: Server) -> str:
    """A superuser's session."""
    return staff_of(fort)["boss"]


async def signed_in(seen: Visit, server: Server, session: str) -> None:
    """From now on a superuser's browser, in which nothing asks anything."""
    cookies = {"sessionid": session, "csrftoken": TOKEN}
    await seen.context.add_cookies(
        [{"name": name, "value": value, "url": server.url} for name, value in cookies.items()]
    )

    async def close(dialog: Dialog) -> None:
        seen.complaints.append(f"a dialog: {dialog.message}")
        await dialog.dismiss()

    seen.page.on("dialog", close)
    # With the place, which the console's own line lacks.
    await seen.context.add_init_script(
        """addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI }) =>
            console.error(`${location.pathname} violates ${effectiveDirective}: ${blockedURI}`))"""
    )


async def opened(page: Page, path: str) -> Response:
    """Go there; every page has a policy."""
    answer = await page.goto(path)
    assert answer is not None
    assert "content-security-policy" in answer.headers, path
    return answer


async def is_unharmed(page: Page) -> None:
    assert await page.evaluate("window.__pwned") is None, page.url


async def test_no_page_does_what_its_policy_forbids(browser: Browser, fort: Server, boss: str) -> None:
    async with visit(browser, f"{fort.url}/accounts/login/", base_url=fort.url) as seen:
        await signed_in(seen, fort, boss)
        seen.allowed = ("status of 404", "status of 410")
        page = seen.page
        # A text, live and formatted.
        await opened(page, "/")
        await write(page, "a café", "scripted")
        await stream_reaches(page, "finished")
        await page.get_by_role("button", name="Plain text").click()
        await page.locator("[data-rows] summary").click()
        task_id = page.url.rpartition("#")[2]
        await page.get_by_role("button", name="Dark theme").click()
        await opened(page, f"/streams/{task_id}/view")
        await stream_reaches(page, "finished")
        # Notebooks.
        await opened(page, "/notebook/")
        await opened(page, "/notebook/rich/")
        picture = (
            "from IPython.display import HTML, SVG, display\n"
            'display(SVG(\'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>\'))\n'
            "print('\\x1b[38;5;208morange')\n"
            "HTML('<style>i { color: rgb(4, 5, 6) }</style><b style=\"color: rgb(1, 2, 3)\">b</b><i>i</i>')"
        )
        await fill(page, picture)
        await run(page, 1)
        await reaches(page, 1, "done")
        inside = outputs(page, 1).locator("iframe").content_frame
        await expect(inside.locator("b")).to_have_css("color", "rgb(1, 2, 3)")
        await expect(inside.locator("i")).to_have_css("color", "rgb(4, 5, 6)")
        # The admin, with charts of what was done above.
        for path in ("", "auth/user/", "auth/user/add/", "auth/group/add/", "notebooks/notebook/"):
            await opened(page, f"/admin/{path}")
        for path in ("streamtask/?state=complete", f"streamtask/{task_id}/change/", "refusal/", "alert/"):
            await opened(page, f"/admin/streaming/{path}")
        for path in ("apikey/", "apikey/add/", "statistics/"):
            await opened(page, f"/admin/streaming/{path}")
        await expect(page.locator("[data-connection]")).to_have_text("live")
        await expect(page.locator("[data-trace] svg polyline").first).to_be_attached()
        # The description, what is not there, and a form.
        await opened(page, "/docs")
        await page.locator(".opblock-summary").first.click()
        await expect(page.locator(".opblock-body").first).to_be_visible()
        await opened(page, "/nowhere")
        await opened(page, "/accounts/signin/unknown/")
        await opened(page, "/")
        await page.get_by_role("button", name="简体中文").click()
        await expect(page.locator("html")).to_have_attribute("lang", "zh-hans")
        # And it is really watched: in a page of its own, as this is a complaint.
        other = await seen.context.new_page()
        await opened(other, "/")
        with pytest.raises(Exception, match="TrustedHTML"):
            await other.evaluate("document.querySelector('main').innerHTML = '<b>x</b>'")


async def test_nothing_that_others_wrote_runs(browser: Browser, fort: Server, boss: str) -> None:
    everything = "\n\n".join(HOSTILE)
    script = {"text": everything, "interval": 0}
    named = {"topic": everything, "category": HOSTILE[7], "tone": HOSTILE[11], "user_id": HOSTILE[0]}
    task_id = await started(fort.url, options=script, **named)
    failed = await started(fort.url, options={**script, "fail_after": 300}, **named)
    async with visit(browser, f"{fort.url}/accounts/login/", base_url=fort.url) as seen:
        await signed_in(seen, fort, boss)
        seen.allowed = (*HANDLERS, *STOPPED)
        page = seen.page
        for path in (f"/#{task_id}", f"/streams/{task_id}/view", f"/streams/{failed}/view"):
            await page.goto(path)
            await stream_reaches(page, "failed" if failed in path else "finished")
            assert "<script>" in str(await text(page).text_content())
            for link in await page.locator("[data-rendered] a").all():
                assert "javascript" not in str(await link.get_attribute("href"))
            await is_unharmed(page)
        # A notebook: its title, source, output, and the error.
        await opened(page, "/notebook/hostile/")
        await page.locator("[data-title]").fill(HOSTILE[0] + HOSTILE[7])
        await fill(page, CELL)
        await run(page, 1)
        await reaches(page, 1, "failed")
        for _ in ("live", "from the record"):
            inside = outputs(page, 1).locator("iframe").first.content_frame
            await expect(inside.locator("#mark")).to_have_css("color", "rgb(1, 2, 3)")
            # Nor when somebody follows each link.
            for link in await inside.locator("a[href]").all():
                assert "javascript:" not in str(await link.get_attribute("href")).lower()
            assert (
                await inside.locator("body :is(script, iframe, object, embed, meta, base, [onerror])").count()
                == 0
            )
            await is_unharmed(page)
            await page.reload()
        # Lists, the admin, and what is asked for.
        encoded = "%3Cscript%3Etop.__pwned=1%3C%2Fscript%3E%3Cimg%20src=x%20onerror=top.__pwned=1%3E"
        for path in (
            "/notebook/",
            "/admin/notebooks/notebook/",
            LIST,
            f"{LIST}?q={encoded}",
            f"{LIST}{task_id}/change/",
            f"{LIST}{failed}/change/",
            "/admin/streaming/statistics/",
            f"/notebook/{encoded}/",
            f"/streams/{encoded}/view",
            f"/{encoded}",
            "/accounts/login/?next=javascript:top.__pwned=1",
        ):
            await page.goto(path)
            await is_unharmed(page)
        await page.goto("/admin/streaming/apikey/add/")
        await page.get_by_label("Name").fill(HOSTILE[6])
        await page.get_by_label("Name").press("Enter")
        await page.goto("/admin/streaming/apikey/")
        await expect(page.get_by_text(HOSTILE[6])).to_be_visible()
        await is_unharmed(page)
        assert not [each for each in seen.complaints if each.startswith("a dialog")]
        # They are no blanks: a page without any of this runs them.
        bare = await seen.context.new_page()
        await bare.set_content("\n".join(HOSTILE))
        await expect(bare.locator("body")).to_be_attached()
        await bare.wait_for_function("window.__pwned === 1")


async def test_what_a_model_says_is_never_done(browser: Browser, fort: Server, boss: str) -> None:
    async with visit(browser, f"{fort.url}/accounts/login/", base_url=fort.url) as seen:
        await signed_in(seen, fort, boss)
        page = seen.page
        asked: list[Any] = []
        page.on("request", lambda request: asked.append(request) if request.method != "GET" else None)
        await opened(page, "/")
        await write(page, "an injection")
        await stream_reaches(page, "finished")
        assert COMMANDS[2].strip() in str(await text(page).text_content())
        assert [request.url for request in asked] == [f"{fort.url}/content/generate/stream/async?timing=1"]
        sent = operations_of(page)
        await opened(page, "/notebook/obeyed/")
        for number in (1, 2):
            await page.get_by_label("Ask for code").fill("an injection")
            await page.keyboard.press("Enter")
            await expect(page.locator(".cell")).to_have_count(number)
            await expect(page.locator("[data-written]")).to_contain_text("Read it before you run it")
        assert "obeyed" in await cell(page, 1).locator("textarea").input_value()
        await expect(page.locator("[data-saved]")).to_have_text("Saved")
        await page.reload()
        await expect(page.locator(".cell")).to_have_count(2)
        assert sent == ["generate", "generate"]
        record = await page.evaluate("fetch('/notebooks/obeyed').then((response) => response.json())")
        assert [each["execution_count"] for each in record["cells"]] == [None, None]
        assert record["kernel"] == {"state": "none", "execution_count": None}
